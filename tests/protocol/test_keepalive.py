"""Keep-alive comments."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from .stored import Plant, planted, stored
from .wire import Node, frames

Announce = Callable[[dict[str, Any]], None]


@pytest.mark.clause("PING-1")
def test_silence_is_filled_with_comments_that_count(
    node: Node, other: Node, db: Redis, name: str
) -> None:
    asked_s = time.monotonic()
    with node.posting(name, "[[tokens=2 rate=0 prefill_s=4]]", sse_ping_interval=1) as post:
        log = post.whole()
    comments = [frame for frame in frames(log) if frame.startswith(b":")]
    assert set(comments) <= {b":", b": queued 0"}  # it may wait for a worker before
    assert 2 <= len(comments) <= time.monotonic() - asked_s
    assert stored(db, name).log == log
    assert other.read(name, from_=3).content == log[3:]
    assert other.found(name)["total_bytes"] == len(log)


@pytest.mark.clause("PING-1")
def test_minus_one_is_never(node: Node, name: str) -> None:
    with node.posting(name, "[[tokens=2 rate=0 prefill_s=1.3]]", sse_ping_interval=-1) as post:
        assert not any(frame.startswith(b":") for frame in frames(post.whole()))


@pytest.mark.clause("PING-1")
def test_fifteen_seconds_are_the_default(node: Node, db: Redis, name: str) -> None:
    node.post(name, "[[tokens=2 rate=0]]")
    assert stored(db, name).fields["ping_interval_s"] == "15"
    assert node.http.get("/props").json()["ping"]["interval_s"] == 15


@pytest.mark.clause("PING-1")
@pytest.mark.usefixtures("occupied")
def test_who_waits_is_told_how_many_are_before(node: Node, other: Node, name: str) -> None:
    with node.posting(f"{name}-before", "x"):
        other.found(f"{name}-before")
        with node.posting(name, "x", sse_ping_interval=1):
            other.found(name)
            with other.reading(name) as reader:
                waiting = frames(reader.containing(b"\n\n"))
                assert set(waiting) == {b": queued 1"}
            assert other.found(name)["total_bytes"] >= len(b": queued 1\n\n")
        other.stop(f"{name}-before")


@pytest.mark.clause("PING-1")
def test_who_waits_for_a_model_is_told_how_far_it_is(
    node: Node, db: Redis, name: str, ghost: Announce
) -> None:
    ghost({"name": name, "status": "loading", "progress": 0.41})
    planted(db, Plant(name, (b":\n\n",), state="queued", model=name, ping_interval_s=1))
    with node.reading(name) as reader:
        assert reader.containing(b"41").endswith(b": loading 41\n\n")
