"""if_busy, clause by clause."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from redis import Redis

from .frail import Frail
from .stored import encoded
from .wire import (
    CHAT,
    DONE,
    Exchange,
    Node,
    asking,
    end_comment,
    error_of,
    events,
    naming,
    target,
    until,
)

SHORT = "[[tokens=12 rate=0 seed=3]]"
SLOW = "[[tokens=60 rate=12 seed=3]]"
"""Ends by itself, in five seconds: what is to meet it alive is there by then."""
PLACE_MS = 6000
LONG = "[[tokens=100000 rate=50]]"


def post(node: Node, name: str, words: str, if_busy: str, **fields: object) -> Exchange:
    """A POST with a policy."""
    body = json.dumps(asking(words, **{"stream": True, **fields})).encode()
    return node.exchange("POST", target(CHAT, if_busy=if_busy), naming(name), body)


def line_of(name: str) -> str:
    """The key of those who wait."""
    return f"rc:{{default:{encoded(name)}}}:line:{encoded(name)}"


def waits(db: Redis, name: str, count: int) -> Callable[[], bool]:
    """Whether so many wait in line."""
    return lambda: db.zcard(line_of(name)) == count


@pytest.mark.clause("BUSY-1")
def test_what_is_no_policy_is_400(node: Node, name: str) -> None:
    for query in ("if_busy=wait", "if_busy=", "if_busy=queue&if_busy=queue"):
        refused = node.http.post(f"{CHAT}?{query}", json=asking(SHORT), headers=naming(name))
        assert (refused.status_code, "if_busy" in error_of(refused)["message"]) == (400, True)
    assert node.lookup(name) == []


@pytest.mark.clause("BUSY-1")
def test_where_nothing_is_live_each_opens(node: Node, other: Node, name: str) -> None:
    epochs = []
    for if_busy in ("replace", "attach", "queue", "reject"):
        with post(other, name, SHORT, if_busy) as opened:
            assert opened.whole().endswith(DONE)
            epochs.append(int(opened.headers["x-stream-epoch"]))
    assert epochs == sorted(set(epochs))


@pytest.mark.clause("BUSY-1")
def test_replace_is_the_default_and_a_word(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG) as live:
        live.first(1)
        with post(other, name, SHORT, "replace") as second:
            second.whole()
        assert b'"reason":"replaced"' in live.whole()


@pytest.mark.clause("BUSY-2")
def test_reject_is_409_and_leaves_everything(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG) as live:
        live.first(1)
        with post(other, name, SHORT, "reject") as rejected:
            assert rejected.status == 409
            epoch = rejected.error()["current_epoch"]
        assert str(epoch) == live.headers["x-stream-epoch"]
        other.stop(name)
        assert live.whole().endswith(end_comment("stopped", "client"))


@pytest.mark.clause("BUSY-2")
def test_attach_is_answered_by_what_is_live(node: Node, other: Node, name: str) -> None:
    with (
        node.posting(name, SLOW) as live,
        ExitStack() as stack,
    ):
        live.first(1)
        stream = stack.enter_context(post(other, name, SHORT, "attach"))
        fold = stack.enter_context(post(other, name, SHORT, "attach", stream=False))
        assert stream.whole() == live.whole()
        for one in (stream, fold):
            for header in ("x-stream-epoch", "x-completion-id"):
                assert one.headers[header] == live.headers[header]


@pytest.mark.clause("BUSY-2")
@pytest.mark.parametrize("stream", [True, False])
def test_nobody_is_attached_to_what_speaks_another_dialect(
    node: Node, other: Node, name: str, stream: bool
) -> None:
    with node.posting(name, LONG) as live:
        live.first(1)
        asked = {"prompt": "hi", "stream": stream}
        response = other.http.post(
            target("/completion", if_busy="attach"),
            headers={"X-Conversation-Id": name},
            json=asked,
        )
    assert (response.status_code, "current_epoch" in error_of(response)) == (409, True)


@pytest.mark.clause("BUSY-3")
def test_those_who_wait_follow_one_another(node: Node, other: Node, db: Redis, name: str) -> None:
    with ExitStack() as stack:
        live = stack.enter_context(node.posting(name, SLOW))
        live.first(1)
        line = []
        for number in range(4):
            words = f"[[tokens=12 rate=0 seed={number}]]"
            line.append(stack.enter_context(post((node, other)[number % 2], name, words, "queue")))
            until(waits(db, name, number + 1))
        assert not any(one.answers() for one in line)
        kept = list(db.scan_iter(line_of(name) + "*", count=1000))
        assert len(kept) == 5 and all(0 < db.pttl(key) <= PLACE_MS for key in kept)
        assert live.whole().endswith(DONE)
        assert all(one.whole().endswith(DONE) for one in line)
        epochs = [int(one.headers["x-stream-epoch"]) for one in line]
        assert epochs == sorted(set(epochs))
        assert len({one.headers["x-completion-id"] for one in line}) == 4
    assert (db.exists(line_of(name)), waits(db, name, 0)()) == (0, True)


@pytest.mark.clause("BUSY-3")
def test_who_leaves_the_line_is_forgotten(node: Node, other: Node, db: Redis, name: str) -> None:
    with node.posting(name, LONG) as live:
        live.first(1)
        with post(other, name, SHORT, "queue"):
            until(waits(db, name, 1))
        until(waits(db, name, 0))
        with post(other, name, SHORT, "queue") as stays:
            until(waits(db, name, 1))
            node.stop(name, epoch=live.headers["x-stream-epoch"])
            assert stays.whole().endswith(DONE)
    [only] = node.lookup(name)
    assert str(only["epoch"]) == stays.headers["x-stream-epoch"]


@pytest.mark.clause("BUSY-3")
def test_who_would_wait_too_far_back_is_503(node: Node, other: Node, db: Redis, name: str) -> None:
    with node.posting(name, LONG) as live:
        live.first(1)
        for number in range(1000):
            db.zadd(line_of(name), {f"nonce-{number}": number})
        db.expire(line_of(name), 60)
        with post(other, name, SHORT, "queue") as refused:
            assert (refused.status, refused.error()["reason"]) == (503, "busy")
            assert refused.headers["retry-after"].isdigit()
        db.delete(line_of(name))


@pytest.mark.clause("BUSY-3")
def test_a_drain_ends_the_waiting(frail: Frail, name: str) -> None:
    two, one = frail.nodes
    words = asking(LONG, stream=True, model="one")
    with one.exchange("POST", CHAT, naming(name), json.dumps(words).encode()) as live:
        live.first(1)
        with post(two, name, SHORT, "queue", model="one") as waiting:
            until(waits(frail.db, name, 1))
            frail.kill("api-1", 15)
            assert (waiting.status, waiting.error()["reason"]) == (503, "draining")
            assert waiting.headers["retry-after"].isdigit()


@pytest.mark.clause("BUSY-3")
def test_who_waits_on_a_node_that_dies_is_forgotten(frail: Frail, name: str) -> None:
    two, one = frail.nodes
    words = asking(LONG, stream=True, model="one")
    with one.exchange("POST", CHAT, naming(name), json.dumps(words).encode()) as live:
        live.first(1)
        with post(two, name, SHORT, "queue", model="one"):
            until(waits(frail.db, name, 1))
            frail.kill("api-1")
        with post(one, name, SHORT, "queue", model="one") as alive:
            until(waits(frail.db, name, 2))
            one.stop(name, epoch=live.headers["x-stream-epoch"])
            assert alive.whole().endswith(DONE)


@pytest.mark.clause("BUSY-4")
def test_a_stop_refuses_those_who_wait(node: Node, other: Node, db: Redis, name: str) -> None:
    with node.posting(name, LONG) as live:
        live.first(1)
        with post(node, name, SHORT, "queue") as here, post(other, name, SHORT, "queue") as there:
            until(waits(db, name, 2))
            assert other.stop(name).status_code == 204
            for one in (here, there):
                assert (one.status, one.error()["reason"]) == (400, "client")
    assert node.lookup(name) == []


@pytest.mark.clause("BUSY-1")
def test_of_many_at_once_one_is_live(node: Node, other: Node, name: str) -> None:
    def asked(number: int) -> bytes:
        policy = ("queue", "attach")[number % 2]
        with post((node, other)[number % 3 % 2], name, SHORT, policy) as one:
            return one.whole()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(asked, range(8)))
    assert all(answer.endswith(DONE) for answer in answers)
    assert all(len({one["id"] for one in events(answer)}) == 1 for answer in answers)
