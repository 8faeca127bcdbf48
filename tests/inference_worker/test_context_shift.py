import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.context_shift import FREE_TOKENS_MIN, Gap, Shift


def gap(held: int, *, keep: int = 0, discard: int = 0) -> Gap | None:
    return Shift(100, keep, discard).gap(prompt_tokens=30, held=held)


def test_nothing_leaves_while_there_is_room() -> None:
    assert gap(98) is None


@pytest.mark.clause("POST-16")
@pytest.mark.parametrize(
    ("keep", "discard", "leaves"),
    [
        (0, 0, Gap(1, 49)),
        (20, 0, Gap(20, 39)),
        (20, 7, Gap(20, 7)),
        (20, 1000, Gap(20, 79)),
        (-1, 0, Gap(30, 34)),
        (1000, 0, Gap(96, 1)),
    ],
)
def test_a_full_context_keeps_its_beginning_and_loses_half_of_the_rest(
    keep: int, discard: int, leaves: Gap
) -> None:
    assert gap(99, keep=keep, discard=discard) == leaves


@given(
    context=st.integers(FREE_TOKENS_MIN + 1, 9000),
    prompt=st.integers(1, 9000),
    keep=st.integers(-1, 9000),
    discard=st.integers(0, 9000),
)
def test_there_is_room_after_a_shift_whatever_is_asked_for(
    context: int, prompt: int, keep: int, discard: int
) -> None:
    held = context - 1
    leaves = Shift(context, keep, discard).gap(prompt_tokens=prompt, held=held)
    assert leaves is not None
    assert leaves.tokens >= 1
    assert 1 <= leaves.first <= leaves.first + leaves.tokens <= held
