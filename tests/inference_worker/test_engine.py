from inference_worker.engine import PromptTooLong


def test_a_prompt_that_is_too_long_is_told_with_both_numbers() -> None:
    assert str(PromptTooLong(9000, 8192)) == (
        "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it"
    )
