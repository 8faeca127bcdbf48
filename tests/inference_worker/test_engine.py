import hashlib
from pathlib import Path

from inference_worker.engine import PromptTooLong, file_sha256


def test_a_prompt_that_is_too_long_is_told_with_both_numbers() -> None:
    assert str(PromptTooLong(9000, 8192)) == (
        "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it"
    )


def test_a_file_that_was_replaced_is_hashed_anew(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for content in (b"one", b"another"):
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()
