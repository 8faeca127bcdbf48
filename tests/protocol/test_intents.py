"""Idempotency-Key, clause by clause."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from redis import Redis

from .stored import encoded, stored
from .wire import CHAT, Exchange, Node, asking, error_of, naming, target

SHORT = "[[tokens=12 rate=0 seed=3]]"
SLOW = "[[tokens=60 rate=60 seed=3]]"
LONG = "[[tokens=100000 rate=50]]"
DAY_MS = 24 * 3600 * 1000
AT_ONCE = 12


def keyed(key: str, name: str | None = None) -> dict[bytes, bytes]:
    """The headers of an intent."""
    return {**naming(name), b"Idempotency-Key": key.encode()}


def ask(node: Node, headers: dict[bytes, bytes], words: str, **fields: Any) -> httpx.Response:
    """Asks, and waits for the whole answer."""
    body = json.dumps(asking(words, **{"stream": True, **fields}))
    return node.http.post(CHAT, headers=headers, content=body)


def asking_slowly(node: Node, headers: dict[bytes, bytes], words: str) -> Exchange:
    """The same, as it comes; with the same bytes of a body."""
    body = json.dumps(asking(words, stream=True)).encode()
    return node.exchange("POST", CHAT, headers, body)


def session_of(answer: httpx.Response | Exchange) -> tuple[str, str, str]:
    """The headers that tell which session answers."""
    names = ("x-stream-epoch", "x-completion-id", "x-stream-offset")
    epoch, completion_id, offset = (answer.headers[name] for name in names)
    return epoch, completion_id, offset


@pytest.mark.clause("IDEM-1")
def test_a_key_alone_names_a_conversation(node: Node, other: Node, name: str) -> None:
    key = f"{name} 50% & {{x}}"
    with asking_slowly(node, keyed(key), SLOW) as post:
        post.first(1)
        named = post.headers["x-conversation-id"]
    assert named == f"~key:{key}"
    assert other.reaches(named, "completed")["epoch"] == int(post.headers["x-stream-epoch"])
    assert other.read(named).content.startswith(post.data)
    assert other.stop(named).headers["x-stream-state"] == "completed"
    assert (node.read(named).status_code, node.lookup(named)) == (404, [])


@pytest.mark.clause("IDEM-1")
@pytest.mark.parametrize("key", ["", "k" * 256, "\u00e9", "a\tb"])
def test_what_is_no_key_is_400(node: Node, name: str, key: str) -> None:
    with asking_slowly(node, keyed(key, name), SHORT) as post:
        assert (post.status, "Idempotency-Key" in post.error()["message"]) == (400, True)
    assert node.lookup(name) == []


@pytest.mark.clause("IDEM-1")
def test_the_longest_key_is_one(node: Node, name: str) -> None:
    key = f"{name}~!".ljust(255, "k")
    assert ask(node, keyed(key), SHORT).headers["x-conversation-id"] == f"~key:{key}"


@pytest.mark.clause("IDEM-1")
def test_no_client_names_a_conversation_as_a_key_does(node: Node, name: str) -> None:
    assert node.post(f"~key:{name}", SHORT).status_code == 400


@pytest.mark.clause("IDEM-2")
@pytest.mark.parametrize("is_named", [True, False])
def test_equal_posts_at_once_are_one_session(
    node: Node, other: Node, name: str, is_named: bool
) -> None:
    headers = keyed(name, name if is_named else None)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [pool.submit(ask, (node, other)[n % 2], headers, SLOW) for n in range(AT_ONCE)]
        answers = [one.result() for one in asked]
    answers.append(ask(other, headers, SLOW))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len({session_of(answer) for answer in answers}) == 1
    assert answers[0].content.endswith(b"data: [DONE]\n\n")


@pytest.mark.clause("IDEM-2")
def test_a_fold_is_repeated_as_it_was(node: Node, other: Node, name: str) -> None:
    first, again = (ask(one, keyed(name), SHORT, stream=False) for one in (node, other))
    assert (again.json(), session_of(again)) == (first.json(), session_of(first))


@pytest.mark.clause("IDEM-2")
def test_a_repetition_replaces_nothing(node: Node, other: Node, name: str) -> None:
    first = ask(node, keyed("first", name), SHORT)
    with node.posting(name, LONG) as live:
        live.first(1)
        for if_busy in ("replace", "attach", "queue", "reject"):
            body = json.dumps(asking(SHORT, stream=True))
            where = target(CHAT, if_busy=if_busy)
            again = other.http.post(where, headers=keyed("first", name), content=body)
            assert (again.content, session_of(again)) == (first.content, session_of(first))
        assert other.found(name)["epoch"] == int(live.headers["x-stream-epoch"])


@pytest.mark.clause("IDEM-2")
def test_a_key_is_kept_for_a_day(node: Node, db: Redis, name: str) -> None:
    epoch, _, _ = session_of(ask(node, keyed(f"{name} k", name), SHORT))
    record = stored(db, name)
    kept = f"{record.keys.stem}intent:{encoded(name)}:{encoded(name + ' k')}"
    sha256 = record.fields["request_sha256"]
    assert db.get(kept).decode() == f"{epoch}:{encoded(record.keys.model)}:{sha256}"
    assert DAY_MS - 60_000 < db.pttl(kept) <= DAY_MS


@pytest.mark.clause("IDEM-3")
def test_another_body_is_422(node: Node, other: Node, name: str) -> None:
    first = ask(node, keyed(name), SHORT)
    for fields in ({"max_tokens": 3}, {"stream": False}):
        refused = ask(other, keyed(name), SHORT, **fields)
        assert (refused.status_code, name in error_of(refused)["message"]) == (422, True)
    assert ask(other, keyed(name), SHORT).content == first.content


@pytest.mark.clause("IDEM-3")
def test_with_another_name_it_is_another_intent(node: Node, name: str) -> None:
    names = (None, name, f"{name}-2", f"{name}::x")
    sessions = {session_of(ask(node, keyed(name, one), SHORT)) for one in names}
    assert len(sessions) == len(names)


@pytest.mark.clause("IDEM-4")
def test_after_its_retention_it_is_410(node: Node, db: Redis, name: str) -> None:
    epoch, _, _ = session_of(ask(node, keyed("k", name), SHORT))
    db.hset(stored(db, name).keys.record, "expires_ms", "1")
    again = ask(node, keyed("k", name), SHORT)
    assert (again.status_code, error_of(again)["epoch"]) == (410, int(epoch))


@pytest.mark.clause("IDEM-4")
def test_what_a_stop_has_evicted_is_told_as_stopped(node: Node, other: Node, name: str) -> None:
    with asking_slowly(node, keyed("k", name), LONG) as post:
        post.first(1)
        assert other.stop(name).status_code == 204
        epoch = post.headers["x-stream-epoch"]
    again = ask(other, keyed("k", name), LONG)
    assert (again.status_code, again.headers["x-stream-epoch"]) == (400, epoch)
    assert (error_of(again)["state"], error_of(again)["reason"]) == ("stopped", "client")
    assert other.lookup(name) == []


@pytest.mark.clause("IDEM-4")
def test_what_was_replaced_ends_as_it_did(node: Node, other: Node, name: str) -> None:
    with asking_slowly(node, keyed("k", name), LONG) as post:
        post.first(1)
        other.post(name, SHORT)
        ended = post.whole()
    again = ask(other, keyed("k", name), LONG)
    assert (again.content, session_of(again)) == (ended, session_of(post))


@pytest.mark.clause("IDEM-5")
def test_a_refusal_uses_no_key_up(node: Node, name: str) -> None:
    assert ask(node, keyed(name), SHORT, temperature="hot").status_code == 400
    assert ask(node, keyed(name), SHORT).status_code == 200


@pytest.mark.clause("IDEM-5")
def test_what_was_never_begun_may_be_asked_for_again(node: Node, db: Redis, name: str) -> None:
    first = ask(node, keyed("k", name), SHORT)
    db.hset(stored(db, name).keys.record, mapping={"state": "failed", "reason": "limit"})
    again = ask(node, keyed("k", name), SHORT)
    assert (again.status_code, session_of(again) == session_of(first)) == (200, False)
