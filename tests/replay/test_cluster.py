"""Worker and node records: alive by heartbeat, gone without one, readable across versions."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from replay import cluster, keys
from replay.cluster import (
    HEARTBEAT_S,
    HEARTBEAT_TTL_S,
    Directory,
    ModelRecord,
    NodeRecord,
    WorkerRecord,
)
from replay.errors import LogUnavailable
from replay.redis_plane import connect
from tests.redis_server import free_port

pytestmark = pytest.mark.anyio
MODEL = ModelRecord("org/m", "loaded", ("m", "a"), 1.0, 8, 3, 8192, {"n_ctx": 8192})
WORKER = WorkerRecord("w 1", "host", 42, 7, "b1", (MODEL, ModelRecord("n", "loading")))
NODE = NodeRecord("n:1", "host", 42, 7, "b1", readers=3, draining=True)


def test_records_come_back() -> None:
    assert WorkerRecord.from_json(WORKER.to_json().encode()) == WORKER
    assert NodeRecord.from_json(NODE.to_json()) == NODE


def test_a_record_of_a_newer_version_is_read() -> None:
    raw = json.loads(WORKER.to_json())
    raw["colour"] = raw["models"][0]["colour"] = "blue"
    assert WorkerRecord.from_json(json.dumps(raw)) == WORKER
    assert NodeRecord.from_json(json.dumps({**json.loads(NODE.to_json()), "x": 1})) == NODE


def test_a_record_of_an_older_version_is_read() -> None:
    raw = {"id": "w", "host": "h", "pid": 1, "started_ms": 2, "build": "b"}
    assert WorkerRecord.from_json(json.dumps(raw)) == WorkerRecord("w", "h", 1, 2, "b")


async def test_who_beats_is_found_and_who_leaves_is_not(redis: Redis) -> None:
    directory = Directory(redis)
    assert (await directory.workers(), await directory.nodes()) == ([], [])
    await directory.beat_worker(WORKER)
    await directory.beat_node(NODE)
    assert (await directory.workers(), await directory.nodes()) == ([WORKER], [NODE])
    assert await directory.has_node("n:1")
    assert not await directory.has_node("n")
    assert await directory.serves("org/m")
    assert await directory.serves("n")  # it is loading
    assert not await directory.serves("m")
    await directory.leave_worker("w 1")
    await directory.leave_node("n:1")
    assert (await directory.workers(), await directory.nodes()) == ([], [])
    assert not await directory.has_node("n:1")
    assert not await directory.serves("org/m")


async def test_a_record_lives_for_some_missed_heartbeats_and_no_longer(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(redis)
    await directory.beat_node(NODE)
    left_ms = await redis.pttl(keys.node("n:1"))
    assert 3 * HEARTBEAT_S * 1000 <= left_ms <= HEARTBEAT_TTL_S * 1000
    monkeypatch.setattr(cluster, "HEARTBEAT_TTL_S", 0.001)
    await directory.beat_node(NODE)
    assert await redis.blpop(["nothing"], 0.02) is None  # the record's time passes
    assert not await directory.has_node("n:1")
    assert await directory.nodes() == []


async def test_a_record_that_lapsed_hides_no_other(redis: Redis) -> None:
    directory = Directory(redis)
    others = [NodeRecord(f"n{number}", "h", 1, 1, "b") for number in range(5)]
    for node in others:
        await directory.beat_node(node)
    await redis.delete(keys.node("n2"))
    assert [node.id for node in await directory.nodes()] == ["n0", "n1", "n3", "n4"]


async def test_ids_that_lapsed_long_ago_leave_the_index(redis: Redis) -> None:
    directory = Directory(redis)
    await redis.zadd(keys.nodes(), {"old": 1})
    await directory.beat_node(NODE)
    assert await redis.zrange(keys.nodes(), 0, -1) == [b"n:1"]


async def test_a_redis_that_is_away_is_our_error() -> None:
    client = connect(f"redis://127.0.0.1:{free_port()}")
    directory = Directory(client)
    try:
        for asked in (
            directory.beat_node(NODE),
            directory.leave_node("n"),
            directory.nodes(),
            directory.has_node("n"),
            directory.serves("m"),
        ):
            with pytest.raises(LogUnavailable):
                await asked
    finally:
        await client.aclose()
