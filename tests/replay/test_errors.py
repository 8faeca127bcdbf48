"""The error tree: one base, data in attributes, a line for people."""

from __future__ import annotations

import pytest

from replay import errors
from replay.errors import (
    EpochMismatch,
    IntentMismatch,
    LineFull,
    LogUnavailable,
    OffsetBeyondEnd,
    OffsetDoubtful,
    OffsetExpired,
    OffsetInvalid,
    RedisUnfit,
    ReplayError,
    SessionExpired,
    SessionNotFound,
    StoppedMeanwhile,
)

EXAMPLES = [
    (SessionNotFound("c"), {"session_id": "c", "cause": ""}, "no session 'c'"),
    (SessionNotFound("c", "erased"), {"cause": "erased"}, "no session 'c': erased"),
    (SessionExpired("c", 7), {"session_id": "c", "epoch": 7}, "epoch 7"),
    (OffsetInvalid("1e3"), {"text": "1e3"}, "got '1e3'"),
    (OffsetExpired(3, 9), {"offset": 3, "first_offset": 9}, "the first is 9"),
    (OffsetBeyondEnd(9, 3), {"offset": 9, "size": 3}, "has 3 bytes"),
    (OffsetDoubtful(9, 3), {"offset": 9, "size": 3}, "go back to 3"),
    (EpochMismatch(1, 2), {"epoch": 1, "current": 2}, "current one is 2"),
    (StoppedMeanwhile("c"), {"session_id": "c"}, "cancelled by a stop"),
    (IntentMismatch("k"), {"key": "k"}, "'k' has been used for another request"),
    (LineFull("c"), {"session_id": "c"}, "too many requests wait"),
    (LogUnavailable("append"), {"operation": "append"}, "(append)"),
    (RedisUnfit("A_URL", "evicts"), {"setting": "A_URL", "refusal": "evicts"}, "of A_URL evicts"),
]


@pytest.mark.parametrize(
    ("error", "data", "said"), EXAMPLES, ids=[type(error).__name__ for error, _, _ in EXAMPLES]
)
def test_an_error_carries_its_data_and_says_it(
    error: ReplayError, data: dict[str, object], said: str
) -> None:
    assert {name: getattr(error, name) for name in data} == data
    assert said in str(error)
    assert isinstance(error, ReplayError)


def test_every_class_of_the_tree_is_tried_here() -> None:
    tree = {one for one in vars(errors).values() if isinstance(one, type)}
    assert tree - {ReplayError} == {type(error) for error, _, _ in EXAMPLES}


def test_a_hostile_offset_is_not_repeated_at_length() -> None:
    assert len(str(OffsetInvalid("9" * 100_000))) < 200
