"""Part B: the session record, its lease, its watch and its job."""

from __future__ import annotations

import json
import struct

import pytest
from redis import Redis

from replay.identity import SessionRef
from replay.log_values import Look
from replay.records import State
from replay.sweeper import is_dead

from .stored import Plant, asked_with, now_ms, planted, stored
from .wire import Node, until

LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
LEASE_MS = 4000
SETTLED_MS = 10_000
LOOKED_AT_S = 40.0


@pytest.mark.clause("REC-1")
def test_an_unknown_field_is_ignored_and_a_missing_one_has_a_default(
    nodes: tuple[Node, Node], db: Redis, name: str
) -> None:
    session = planted(db, Plant(name, (b":\n\n",), state="completed", reason="stop"))
    assert session.fields["tomorrow"] == "unknown" and "completion_id" not in session.fields
    for node in nodes:
        assert node.read(name).content == b":\n\n"
        [found] = node.lookup(name)
        assert (found["completion_id"], found["started_at"]) == ("", session.keys.epoch // 1000)


@pytest.mark.clause("REC-1")
def test_a_record_says_who_it_is_and_what_was_asked(
    node: Node, db: Redis, name: str, model: str
) -> None:
    named = f"{name}::{model}"
    headers = node.post(named, SHORT, model=model, sse_ping_interval=7).headers
    session = stored(db, name)
    record = session.fields
    assert (record["version"], record["tenant"], record["conversation"]) == ("1", "default", name)
    assert (record["name"], record["model"]) == (named, model)
    assert record["epoch"] == headers["x-stream-epoch"]
    assert record["completion_id"] == headers["x-completion-id"]
    request = json.loads(record["request"])
    assert request["messages"] == [{"role": "user", "content": SHORT}]
    assert request["sampling"]["seed"] >= 0
    prompt = struct.iter_unpack("<I", session.prompt)
    assert bytes(token for (token,) in prompt if token < 256).decode().count("seed=3") == 1
    assert int(record["prefill_chunk_tokens"]) > 0 and len(record["model_sha256"]) == 64
    assert (record["dialect"], record["ping_interval_s"]) == ("openai.chat", "7")
    assert (record["owner"], record["retention_ms"]) == ("", "7200000")
    assert "doubt" not in record
    assert record["run_id"] == db.info("server")["run_id"]


@pytest.mark.clause("REC-1")
def test_a_record_tells_a_life_in_redis_time(node: Node, db: Redis, name: str) -> None:
    before = now_ms()
    body = node.post(name, SHORT, stream=True).content
    record = stored(db, name).fields
    created, last, ended = (int(record[f"{one}_ms"]) for one in ("created", "last", "ended"))
    assert before <= created <= last <= ended <= now_ms()
    assert int(record["expires_ms"]) == ended + int(record["retention_ms"])
    assert (int(record["end"]), record["token_count"]) == (len(body), "12")
    assert (record["attempt"], bool(record["nonce"])) == ("1", True)
    assert int(record["dispatch"]) >= 1


@pytest.mark.clause("REC-1")
def test_a_plain_session_has_its_node_for_owner(node: Node, db: Redis, name: str) -> None:
    with node.posting(None, f"{LONG} {name}") as post:
        post.first(1)
        owners = {
            db.hget(key, "owner")
            for key in db.scan_iter("rc:*:record", count=1000)
            if name.encode() in (db.hget(key, "request") or b"")
        }
    [owner] = owners
    assert owner in db.zrange("rc:nodes", 0, -1)


@pytest.mark.clause("REC-2")
def test_a_lease_is_four_seconds_and_renewed(node: Node, db: Redis, name: str) -> None:
    with node.posting(name, LONG) as post:
        post.first(1)
        session = stored(db, name)
        first = int(session.fields["lease_until_ms"])
        assert 0 < first - now_ms() <= LEASE_MS
        later = until(lambda: _other_lease(session.fields["lease_until_ms"], first))
        assert 0 < later - now_ms() <= LEASE_MS
        assert session.fields["attempt"] == "1"


def _other_lease(text: str, first: int) -> int:
    return int(text) if int(text) != first else 0


def _look(now: int, lease: int = 1000) -> Look:
    return Look(SessionRef("t", "c", "m", 1), State.RUNNING, lease, now, 1, 1, 1, "", "openai.chat")


@pytest.mark.clause("REC-2")
def test_one_connection_must_see_the_same_expired_lease_twice() -> None:
    def looks(*seen: tuple[Look, int]) -> bool:
        dead, first = False, None
        for look, connection in seen:
            dead, first = is_dead(look, first, connection=connection, lease_ms=LEASE_MS)
        return dead

    assert not looks((_look(2000), 1))
    assert not looks((_look(2000), 1), (_look(3999), 1))
    assert not looks((_look(2000), 1), (_look(9000), 2))
    assert not looks((_look(2000), 1), (_look(9000, lease=8000), 1))
    assert looks((_look(2000), 1), (_look(4000), 1))


@pytest.mark.clause("REC-3")
def test_a_plain_session_stands_in_the_watch_index_until_its_end_was_seen(
    node: Node, db: Redis, name: str
) -> None:
    with node.posting(None, f"{LONG} {name}") as post:
        post.first(1)
        session = asked_with(db, name)
        assert len(session.keys.shards(db)) == 1
    until(lambda: not session.keys.shards(db))
    assert session.blocks == []


@pytest.mark.clause("REC-3")
@pytest.mark.clause("LOG-10")
def test_a_session_stands_in_the_watch_index_until_it_is_compacted(
    node: Node, other: Node, db: Redis, name: str
) -> None:
    log = node.post(name, "[[tokens=100 rate=0]]", stream=True).content
    session = stored(db, name)
    before, prompt = session.fields, session.prompt
    expires_ms = db.pexpiretime(session.keys.stream)
    assert len(session.keys.shards(db)) == 1
    until(lambda: not session.keys.shards(db), limit_s=LOOKED_AT_S)
    assert now_ms() - int(before["ended_ms"]) >= SETTLED_MS
    assert b"".join(data for _, data in session.blocks) == log
    assert [end for end, _ in session.blocks] == [len(log)]
    assert session.end == {"state": "completed", "reason": "stop", "size": len(log)}
    assert db.pexpiretime(session.keys.stream) == expires_ms > now_ms()
    assert not db.exists(session.keys.tokens) and session.prompt == b""
    after = session.fields
    assert int(after.pop("packed_bytes")) < len(log) / 10
    assert int(after.pop("prompt_token_count")) == len(prompt) // 4
    assert after == before
    assert node.read(name).content == other.read(name, from_=0).content == log


@pytest.mark.clause("REC-3")
@pytest.mark.usefixtures("occupied")
def test_a_queued_session_without_a_job_is_enqueued_again(node: Node, db: Redis, name: str) -> None:
    with node.posting(name, SHORT):
        session = stored(db, name)
        until(lambda: db.zcard(session.keys.queue))
        [(job, score)] = db.zrange(session.keys.queue, 0, -1, withscores=True)
        db.delete(session.keys.queue, b"arq:job:" + job)
        until(lambda: db.zcard(session.keys.queue))
        [(again, place)] = db.zrange(session.keys.queue, 0, -1, withscores=True)
        assert (again.decode(), place) == (f"{session.keys.path}:2", score)
        assert session.fields["dispatch"] == "2"


@pytest.mark.clause("REC-4")
@pytest.mark.usefixtures("occupied")
def test_a_queue_is_ordered_by_number(node: Node, other: Node, db: Redis, name: str) -> None:
    names = [f"{name}{mark}" for mark in ("{1}", "::2", "")]
    with node.posting(names[0], SHORT):
        other.found(names[0])
        with other.posting(names[1], SHORT):
            node.found(names[1])
            with node.posting(names[2], SHORT):
                until(lambda: len(other.lookup(names[2])) == 2)  # it is the prefix of the other
                sessions = [stored(db, one) for one in names]
                queue = sessions[0].keys.queue
                until(lambda: db.zcard(queue) == 3)
                jobs = [one.decode() for one in db.zrange(queue, 0, -1)]
                assert jobs == [f"{one.keys.path}:1" for one in sessions]
                numbers = [int(one.fields["queue_number"]) for one in sessions]
                assert [db.zscore(queue, job) for job in jobs] == numbers == sorted(numbers)
                assert int(db.get("rc:queue-number")) == numbers[-1]
                for one in names:
                    node.stop(one)
