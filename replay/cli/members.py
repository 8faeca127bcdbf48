"""``replayctl workers`` and ``replayctl nodes``: who lives, by the last heartbeat."""

from __future__ import annotations

import time
from dataclasses import asdict

from replay.cli import access, views
from replay.cli.options import DEFAULT_REDIS_URL, AsJson, RedisUrl
from replay.cli.output import note, write_json, write_table
from replay.cluster import Directory


def workers(redis_url: RedisUrl = DEFAULT_REDIS_URL, as_json: AsJson = False) -> None:
    """Lists the workers that live, with their models and free slots.

    --json: one array of worker records.
    """
    access.run(_workers(redis_url, as_json), redis_url=redis_url)


def nodes(redis_url: RedisUrl = DEFAULT_REDIS_URL, as_json: AsJson = False) -> None:
    """Lists the API nodes that live, with how many readers each has.

    --json: one array of node records.
    """
    access.run(_nodes(redis_url, as_json), redis_url=redis_url)


async def _workers(redis_url: str, as_json: bool) -> None:
    async with access.plane(redis_url) as redis:
        found = await Directory(redis).workers()
    if as_json:
        write_json([asdict(worker) for worker in found])
    elif found:
        rows = [row for worker in found for row in views.worker_rows(worker, _now_ms())]
        write_table(views.WORKER_COLUMNS, rows)
    else:
        note("no worker lives")


async def _nodes(redis_url: str, as_json: bool) -> None:
    async with access.plane(redis_url) as redis:
        found = await Directory(redis).nodes()
    if as_json:
        write_json([asdict(node) for node in found])
    elif found:
        write_table(views.NODE_COLUMNS, [views.node_row(node, _now_ms()) for node in found])
    else:
        note("no node lives")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
