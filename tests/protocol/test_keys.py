"""Part B: keys."""

from __future__ import annotations

import re

import pytest
from redis import Redis

from .frail import Frail
from .stored import encoded, stored
from .wire import Node, until

LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
HEARTBEAT_S = 5
RETENTION_S = 7200
GRACE_S = 120
DAY_S = 86_400
NAMES = [
    "{a}",
    "a{b",
    "a}b",
    "a:b",
    "50%",
    "é🙂",
    "two words",
    "a/b?c#d",
    ":",
    "::",
    ":::x",
    "x::y::z",
]


@pytest.mark.clause("KEY-1")
@pytest.mark.parametrize("text", NAMES)
def test_all_keys_of_a_conversation_carry_one_tag(
    node: Node, db: Redis, name: str, text: str
) -> None:
    named = f"{name}{text}"
    node.post(named, SHORT)
    base = encoded(named.split("::")[0].rstrip(":"))
    tag = f"rc:{{default:{base}}}:".encode()
    keys = [key for key in db.scan_iter("rc:*", count=1000) if name.encode() in key]
    assert len(keys) >= 5
    assert all(key.startswith(tag) for key in keys), keys
    assert all(re.fullmatch(rb"[\w.~%:-]+", key.removeprefix(tag)) for key in keys)


@pytest.mark.clause("KEY-1")
def test_conversations_with_the_same_base_share_a_tag(node: Node, db: Redis, name: str) -> None:
    named = [name, f"{name}::branch", f"{name}::branch::leaf"]
    for one in named:
        node.post(one, SHORT)
    assert {stored(db, one).keys.stem for one in named} == {f"rc:{{default:{name}}}:"}
    assert db.smembers(stored(db, name).keys.conversations) == {
        encoded(one).encode() for one in named
    }


@pytest.mark.clause("KEY-1")
def test_the_keys_are_those_of_the_table(node: Node, other: Node, db: Redis, name: str) -> None:
    with node.posting(name, LONG) as post:
        post.first(1)
        session = stored(db, name)
        kinds = {
            session.keys.record: b"hash",
            session.keys.stream: b"stream",
            session.keys.tokens: b"string",
            session.keys.route: b"hash",
            session.keys.conversations: b"set",
            session.keys.shards(db)[0]: b"zset",
            "rc:workers": b"zset",
            "rc:nodes": b"zset",
            "rc:queue-number": b"string",
        }
        assert {key: db.type(key) for key in kinds} == kinds
        assert db.pubsub_numsub(session.keys.channel)[0][1] >= 1
        for ids, record in (("rc:workers", "rc:worker:"), ("rc:nodes", "rc:node:")):
            assert all(
                db.type(record + encoded(one.decode())) == b"string"
                for one in db.zrange(ids, 0, -1)
            )
        other.stop(name)
    assert db.type(f"{session.keys.stem}stopped:{encoded(name)}") == b"string"


@pytest.mark.clause("KEY-2")
@pytest.mark.usefixtures("occupied")
def test_every_key_has_a_ttl(node: Node, other: Node, db: Redis, name: str) -> None:
    with node.posting(name, SHORT), node.posting(None, SHORT):
        until(lambda: db.zcard(stored(db, name).keys.queue) == 2)
        other.stop(f"{name}-unknown")
        assert [key for key in db.scan_iter(count=1000) if db.ttl(key) == -1] == []


@pytest.mark.clause("KEY-2")
def test_the_ttls_are_as_promised(node: Node, db: Redis, name: str) -> None:
    node.post(name, SHORT)
    session = stored(db, name)
    for key in (session.keys.record, session.keys.stream, session.keys.tokens):
        assert RETENTION_S < db.ttl(key) <= RETENTION_S + GRACE_S
    assert 30 * DAY_S - GRACE_S < db.ttl(session.keys.route) <= 30 * DAY_S
    for one in db.scan_iter("rc:worker:*"):
        assert 0 < db.pttl(one) <= 1000 * HEARTBEAT_S
    for one in db.scan_iter("rc:node:*"):
        assert 0 < db.pttl(one) <= 1000 * HEARTBEAT_S


@pytest.mark.clause("KEY-2")
def test_the_mark_of_a_stop_lives_ten_seconds(node: Node, db: Redis, name: str) -> None:
    node.stop(name)
    mark = f"rc:{{default:{name}}}:stopped:{name}"
    assert 0 < db.pttl(mark) <= 10_000


@pytest.mark.clause("KEY-3")
def test_the_planes_are_two_servers(frail: Frail, name: str) -> None:
    node, other = frail.nodes
    with node.posting(name, LONG, model="one") as post:
        post.first(1)
        with Redis.from_url(frail.queue_plane.url) as queues:
            logs = set(frail.db.scan_iter("rc:*"))
            queued = set(queues.scan_iter("rc:*"))
        other.stop(name)
    patterns = re.compile(rb"rc:(queue|queue-number|prepare|inbox)(:|$)")
    assert queued and all(map(patterns.match, queued))
    assert logs and not any(map(patterns.match, logs))
