"""Part B: the log, and the scripts that alone write it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from replay.redis_scripts import script

from .frail import WINDOW_BYTES, Frail
from .stored import END_ID, TTL_S, Plant, Stored, now_ms, planted, stored
from .wire import STREAM, WAIT_S, Node, error_of, events, target

LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
TOKEN = struct.Struct("<IHH")
FRAME = b": x\n\n"
MIB = 1024 * 1024
CLAIM = {"attempt": 1, "nonce": "n", "retention_ms": 1000 * TTL_S, "lease_until_ms": 0}


@pytest.fixture
def claimed(redis_url: str) -> Iterator[Stored]:
    """A running session in a Redis of its own, with one claim: attempt 1, nonce ``n``."""
    with Redis.from_url(redis_url) as client:
        yield planted(client, Plant("c", more=CLAIM))


def produce(
    session: Stored,
    start: int,
    data: bytes,
    *,
    attempt: int = 1,
    nonce: str = "n",
    tokens: tuple[int, ...] = (),
    closing: tuple[str, str] = ("", ""),
) -> list[Any]:
    """One call of the script that appends, or with a state and a reason of the one that closes."""
    packed = b"".join(TOKEN.pack(token, 0, 0) for token in tokens)
    first = int(session.fields.get("token_count", 0))
    told = (session.keys.session, attempt, nonce, start, data, first, packed, 32 * MIB)
    name, more = ("close", closing) if closing[0] else ("append", ())
    return session.redis.eval(script(name).text, 1, session.keys.record, *told, *more)


@pytest.mark.clause("LOG-1")
def test_an_entry_is_named_by_its_end_and_holds_whole_frames(
    node: Node, db: Redis, name: str
) -> None:
    body = node.post(name, "[[tokens=60 rate=2000 seed=5]]", stream=True).content
    session = stored(db, name)
    offset = 0
    for end, data in session.chunks:
        offset += len(data)
        assert (end, data != b"", data.endswith(b"\n\n")) == (offset, True, True)
    assert session.log == body
    assert all(set(found) == {b"d"} for _, found in session.entries[:-1])
    assert all(one.endswith("-0") for one, _ in session.entries[:-1])


@pytest.mark.clause("LOG-1")
def test_what_another_implementation_has_appended_is_read(
    nodes: tuple[Node, Node], db: Redis, name: str
) -> None:
    chunks = (b"data: {}\n\n", ": é🙂\n\n".encode(), b":\n\n" * 10)
    planted(db, Plant(name, chunks, state="completed", reason="stop"))
    log = b"".join(chunks)
    for offset in range(len(log) + 1):
        assert nodes[offset % 2].read(name, from_=offset).content == log[offset:]


@pytest.mark.clause("LOG-10")
@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_what_another_implementation_has_compacted_is_read(
    nodes: tuple[Node, Node], db: Redis, name: str, coding: str
) -> None:
    chunks = (b"data: {}\n\n", ": é🙂\n\n".encode(), b":\n\n" * 10, b"data: {1}\n\n")
    planted(db, Plant(name, chunks, state="completed", reason="stop")).compact(2, 1, 1)
    log = b"".join(chunks)
    for offset in range(len(log) + 1):
        asked = target(STREAM, conv_id=name, from_=offset)
        response = nodes[offset % 2].http.get(asked, headers={"Accept-Encoding": coding})
        assert (response.status_code, response.content) == (200, log[offset:])
        assert response.headers.get("content-encoding", "identity") == coding


@pytest.mark.clause("LOG-10")
def test_the_window_of_a_compacted_log_begins_where_it_did(
    node: Node, db: Redis, name: str
) -> None:
    chunks = (b"data: {}\n\n", b":\n\n" * 5)
    plant = Plant(name, chunks, start=1000, state="completed", reason="stop")
    planted(db, plant).compact(1, 1)
    refused = node.read(name, from_=999)
    assert (refused.status_code, error_of(refused)["first_offset"]) == (410, 1000)
    assert "content-encoding" not in refused.headers
    assert node.read(name, from_=1000).content == b"".join(chunks)


@pytest.mark.clause("LOG-2")
def test_the_end_is_the_last_entry_that_redis_takes(node: Node, db: Redis, name: str) -> None:
    body = node.post(name, SHORT, stream=True).content
    session = stored(db, name)
    last, fields = session.entries[-1]
    assert (last, set(fields)) == (END_ID, {b"end"})
    assert session.end == {"state": "completed", "reason": "stop", "size": len(body)}
    for one in ("*", f"{len(body) + 3}-0", END_ID):
        with pytest.raises(ResponseError):
            db.xadd(session.keys.stream, {"d": FRAME}, id=one)


@pytest.mark.clause("LOG-3")
def test_an_append_at_the_end_is_written_and_published(claimed: Stored) -> None:
    with claimed.redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(claimed.keys.channel)
        listener.get_message(timeout=WAIT_S)
        assert produce(claimed, 0, FRAME, tokens=(7, 8)) == [b"appended", b"5", b"2"]
        told = listener.get_message(timeout=WAIT_S)
    assert told is not None and told["data"] == b"c0\n" + FRAME
    assert claimed.chunks == [(5, FRAME)]
    assert claimed.redis.get(claimed.keys.tokens) == TOKEN.pack(7, 0, 0) + TOKEN.pack(8, 0, 0)
    assert (claimed.fields["end"], claimed.fields["token_count"]) == ("5", "2")


@pytest.mark.clause("LOG-3")
@pytest.mark.parametrize("start", [0, 4, 6, 100])
def test_an_append_anywhere_else_hears_the_end_and_writes_nothing(
    claimed: Stored, start: int
) -> None:
    produce(claimed, 0, FRAME)
    assert produce(claimed, start, FRAME, tokens=(9,)) == [b"at", b"5", b"0"]
    assert (claimed.log, claimed.redis.exists(claimed.keys.tokens)) == (FRAME, 0)
    assert produce(claimed, 5, FRAME) == [b"appended", b"10", b"0"]


@pytest.mark.clause("LOG-3")
def test_an_append_of_another_claim_is_fenced(claimed: Stored) -> None:
    for wrong in ({"attempt": 0}, {"nonce": "m"}, {"nonce": ""}):
        assert produce(claimed, 0, FRAME, **wrong) == [b"fenced"]
    assert produce(claimed, 0, FRAME, attempt=2) == [b"forgotten"]
    assert claimed.log == b""


@pytest.mark.clause("LOG-4")
def test_a_close_appends_the_last_bytes_and_the_end_in_one_call(claimed: Stored) -> None:
    produce(claimed, 0, FRAME)
    assert produce(claimed, 5, FRAME, closing=("completed", "stop")) == [b"appended", b"10", b"0"]
    assert (claimed.log, claimed.end) == (
        2 * FRAME,
        {"state": "completed", "reason": "stop", "size": 10},
    )
    assert claimed.fields["state"] == "completed"
    assert produce(claimed, 10, FRAME)[0] == b"ended"
    assert produce(claimed, 10, FRAME, closing=("failed", "engine"))[0] == b"ended"


@pytest.mark.clause("LOG-4")
def test_a_close_anywhere_else_ends_nothing(claimed: Stored) -> None:
    assert produce(claimed, 3, FRAME, closing=("completed", "stop")) == [b"at", b"0", b"0"]
    assert (claimed.end, claimed.fields["state"]) == (None, "running")


@pytest.mark.clause("LOG-5")
def test_the_tokens_of_what_is_shown_are_there(node: Node, db: Redis, name: str) -> None:
    with node.posting(name, "[[tokens=80 rate=300 seed=5]]") as post:
        session = stored(db, name)
        pairs = []
        while post.chunk():
            with db.pipeline(transaction=True) as pipeline:
                pipeline.xrange(session.keys.stream)
                pipeline.strlen(session.keys.tokens)
                entries, length = pipeline.execute()
            pairs.append((_shown(entries), length))
    assert all(length % TOKEN.size == 0 for _, length in pairs)
    assert all(length // TOKEN.size >= shown for shown, length in pairs)
    assert pairs[-1][1] == 8 * int(session.fields["token_count"]) == 8 * 80


def _shown(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> int:
    """How many content chunks the entries show; each needs a token at least."""
    log = b"".join(found.get(b"d", b"") for _, found in entries)
    return log.count(b'"delta":{"content":"')


@pytest.mark.clause("LOG-5")
def test_tokens_may_come_before_their_bytes(claimed: Stored) -> None:
    assert produce(claimed, 0, b"", tokens=(1,)) == [b"appended", b"0", b"1"]
    assert produce(claimed, 0, FRAME, tokens=(2,)) == [b"appended", b"5", b"2"]
    assert claimed.redis.strlen(claimed.keys.tokens) == 16
    assert len(claimed.entries) == 1


@pytest.mark.clause("LOG-6")
def test_a_route_tells_the_epochs_and_what_became_of_them(
    node: Node, db: Redis, name: str, model: str
) -> None:
    epochs = [node.post(name, SHORT).headers["x-stream-epoch"] for _ in range(2)]
    route = stored(db, name).route
    assert (route["epoch"], route["current"]) == (epochs[1], epochs[1])
    assert [route[f"s:{epoch}"] for epoch in epochs] == [route["model"]] * 2 == [model] * 2
    node.stop(name)
    route = stored(db, name).route
    assert (route["epoch"], route["current"], route["erased"]) == (epochs[1], "", epochs[1])
    assert not any(field.startswith("s:") for field in route)
    assert (route["gone_state"], route["gone_reason"]) == ("completed", "stop")


@pytest.mark.clause("LOG-6")
def test_a_route_tells_for_ten_minutes_what_became(node: Node, db: Redis, name: str) -> None:
    node.post(name, SHORT)
    node.stop(name)
    assert "completed" in error_of(node.read(name))["reason"]
    session = stored(db, name)
    left_ms = int(session.route["gone_until_ms"]) - now_ms()
    assert 590_000 < left_ms <= 600_000
    db.hset(session.keys.route, "gone_until_ms", now_ms() - 2000)
    response = node.read(name)
    assert response.status_code == 404
    assert "completed" not in error_of(response)["reason"]


@pytest.mark.clause("LOG-7")
def test_a_new_epoch_is_the_clock_or_the_next_one(node: Node, db: Redis, name: str) -> None:
    before = now_ms()
    first = int(node.post(name, SHORT).headers["x-stream-epoch"])
    assert before <= first <= now_ms()
    ahead = now_ms() + 10**9
    db.hset(stored(db, name).keys.route, "epoch", ahead)
    assert int(node.post(name, SHORT).headers["x-stream-epoch"]) == ahead + 1


@pytest.mark.clause("LOG-8")
def test_the_window_is_the_last_bytes(frail: Frail, name: str) -> None:
    node, other = frail.nodes
    words = "[[tokens=1000 rate=0]]"
    size = len(node.post(name, words, model="one", stream=True).content)
    end, data = stored(frail.db, name).chunks[0]
    first = end - len(data)
    response = other.read(name)
    assert (response.status_code, error_of(response)["first_offset"]) == (410, first)
    retained = other.read(name, from_=first).content
    assert len(retained) == size - first
    assert WINDOW_BYTES <= len(retained) < WINDOW_BYTES + len(data)
    assert events(retained[retained.index(b"\n\n") + 2 :])


@pytest.mark.clause("LOG-8")
def test_the_window_is_32_mib_by_default(node: Node) -> None:
    assert node.http.get("/props").json()["window_bytes"] == 32 * MIB


@pytest.fixture
def full(claimed: Stored) -> Iterator[Stored]:
    """The same session in a Redis whose memory is full."""
    claimed.redis.config_set("maxmemory-policy", "noeviction")
    claimed.redis.config_set("maxmemory", 1)
    yield claimed
    claimed.redis.config_set("maxmemory", 0)


@pytest.mark.clause("LOG-9")
def test_a_full_memory_takes_the_end_but_no_bytes(full: Stored) -> None:
    with pytest.raises(OutOfMemoryError):
        produce(full, 0, FRAME)
    assert produce(full, 0, FRAME, closing=("failed", "storage"))[0] == b"appended"
    assert full.end == {"state": "failed", "reason": "storage", "size": 5}


@pytest.mark.clause("LOG-9")
@pytest.mark.parametrize(
    "name", ["claim", "renew", "reap", "requeue", "stop", "mark", "close", "pulse", "beat"]
)
def test_what_ends_or_holds_a_session_may_write_when_memory_is_full(name: str) -> None:
    assert "allow-oom" in script(name).text.splitlines()[0]


@pytest.mark.clause("LOG-9")
@pytest.mark.parametrize("name", ["open", "append"])
def test_what_opens_or_appends_may_not(name: str) -> None:
    assert "allow-oom" not in script(name).text.splitlines()[0]


@pytest.mark.clause("LOG-9")
def test_a_stop_is_heard_when_memory_is_full(full: Stored) -> None:
    stem, conversation = full.keys.stem, full.keys.conversation
    told = (stem, conversation, "", "1", "client", b': end {"state":"stopped"}\n\n')
    reply = full.redis.eval(script("stop").text, 1, full.keys.route, *told)
    assert reply[0] == b"stopped"
    assert json.loads(full.entries[-1][1][b"end"])["reason"] == "client"
