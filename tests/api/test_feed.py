"""What successive looks at the same sessions come to as events."""

from __future__ import annotations

import json
from typing import Any

from api.feed import Changes


def summary(name: str = "c", **more: Any) -> dict[str, Any]:
    return {"conversation_id": name, "epoch": 1, "is_done": False, "tokens": 0, **more}


def told(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for frame in data.decode().split("\n\n")[:-1]:
        kind, payload = frame.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(payload.removeprefix("data: "))))
    return found


def test_what_is_new_is_told_whole_and_what_stays_not_again() -> None:
    changes = Changes()
    assert told(changes.events([summary()], 0.0)) == [("session", summary())]
    assert changes.has_live
    assert changes.events([summary()], 1.0) == b""


def test_progress_tells_the_rate_since_it_was_counted_last() -> None:
    changes = Changes()
    changes.events([summary(tokens=10)], 0.0)
    grown = summary(tokens=30)
    rated = {**grown, "tokens_per_second": 10.0}
    assert told(changes.events([grown], 2.0)) == [("progress", rated)]


def test_an_end_is_told_once_and_leaves_nothing_live() -> None:
    changes = Changes()
    changes.events([summary()], 0.0)
    ended = summary(is_done=True, state="stopped")
    assert told(changes.events([ended], 1.0)) == [("ended", ended)]
    assert not changes.has_live
    assert changes.events([ended], 2.0) == b""


def test_another_epoch_is_another_session_even_where_it_has_ended_already() -> None:
    changes = Changes()
    changes.events([summary()], 0.0)
    later = summary(epoch=2, is_done=True)
    assert told(changes.events([later], 1.0)) == [("session", later)]


def test_what_is_told_no_more_is_gone() -> None:
    changes = Changes()
    changes.events([summary("a"), summary("b"), summary("c")], 0.0)
    gone = [("gone", {"conversation_id": name}) for name in ("a", "c")]
    assert told(changes.events([summary("b")], 1.0)) == gone
    assert changes.events([summary("b")], 2.0) == b""
