"""Workers and nodes, as their heartbeats tell."""

from __future__ import annotations

import asyncio
import time

from replay.cli import access
from replay.cluster import Directory, ModelRecord, NodeRecord, WorkerRecord

from .command_line import read_json, replayctl


def beat(url: str) -> None:
    """One worker and one node that have just been heard of."""

    async def beats() -> None:
        started_ms = time.time_ns() // 1_000_000 - 3_600_000 * 3
        models = (ModelRecord("tiny", "loaded", slots=8, slots_free=5, context_tokens=8192),)
        async with access.plane(url) as redis:
            directory = Directory(redis)
            await directory.beat_worker(WorkerRecord("w1", "h", 12, started_ms, "b1", models))
            await directory.beat_node(NodeRecord("api-1", "h", 13, started_ms, "b1", readers=4))

    asyncio.run(beats())


def test_workers_are_listed_with_their_models_and_slots(redis_url: str) -> None:
    beat(redis_url)
    titles, row = replayctl(redis_url, "workers", "ls").stdout.splitlines()
    assert titles.split()[:4] == ["WORKER", "HOST", "PID", "UP"]
    assert row.split() == ["w1", "h", "12", "3h", "up", "tiny", "loaded", "5/8", "8,192", "b1"]
    (worker,) = read_json(redis_url, "workers", "ls")
    assert (worker["id"], worker["models"][0]["slots_free"]) == ("w1", 5)


def test_nodes_are_listed_with_their_readers(redis_url: str) -> None:
    beat(redis_url)
    _, row = replayctl(redis_url, "nodes", "ls").stdout.splitlines()
    assert row.split() == ["api-1", "h", "13", "3h", "up", "4", "b1"]
    (node,) = read_json(redis_url, "nodes", "ls")
    assert (node["id"], node["readers"]) == ("api-1", 4)


def test_an_empty_cluster_is_an_answer_and_no_error(redis_url: str) -> None:
    for noun, told in (("workers", "no worker lives\n"), ("nodes", "no node lives\n")):
        result = replayctl(redis_url, noun, "ls")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", told)
        assert read_json(redis_url, noun, "ls") == []
