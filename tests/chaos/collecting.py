"""What is left when all is over: each session in Redis and at every node, and what leaked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
from redis.asyncio import Redis

from replay import keys
from replay.cluster import Directory
from replay.records import SessionRecord, unpack_tokens
from replay.redis_log import RedisLog
from replay.request import GenerationRequest

from .answers import AnswerOf
from .oracle import Session
from .readers import STREAM, Lines
from .world import World

LOOK_S = 0.2
QUEUES, WATCHED = f"{keys.PREFIX}:queue:*", f"{keys.PREFIX}:live:*"
REST_MAX_S = 40.0
"""How long the cluster may take to come to rest: a takeover, a sweep, a heartbeat, ten times."""

FILES_SLACK = 40
"""Connections that a pool may keep open; ten readers that leak show more."""


async def records(redis: Any) -> AsyncIterator[SessionRecord]:
    """Every session record there is."""
    async for key in redis.scan_iter(keys.RECORDS, count=1000):
        if fields := await redis.hgetall(key):
            yield SessionRecord.from_fields(fields)


async def all_ended(world: World) -> bool:
    """Whether every session has."""
    async with world.db() as redis:
        return all([record.state.is_final async for record in records(redis)])


async def sessions(
    world: World,
    lines: Lines,
    answer_of: AnswerOf,
    *,
    since_ms: int = 0,
) -> list[Session]:
    """Every session with its log, as each node tells it and as Redis holds it.

    ``since_ms``, a time of Redis's, leaves those out that were opened before it.
    """
    found = []
    async with world.db() as redis:
        log = RedisLog(redis)
        async for record in records(redis):
            if record.created_ms < since_ms:
                continue
            stored = await _stored(log, record)
            found.append(
                Session(
                    record.completion_id,
                    record.name,
                    record.epoch,
                    bool(record.owner),
                    str(record.state),
                    record.reason,
                    record.end,
                    record.token_count,
                    tuple(token.id for token in unpack_tokens(await log.tokens(record.ref))),
                    stored,
                    answer_of(GenerationRequest.from_json(record.request)),
                    await _copies(lines, record) if await _is_retained(redis, record) else {},
                    record.attempt,
                    record.idempotency_key,
                )
            )
    return found


async def _stored(log: RedisLog, record: SessionRecord) -> bytes:
    data = b""
    while chunks := (page := await log.read(record.ref, len(data))).chunks:
        data += b"".join(chunk.data for chunk in chunks)
        if page.end is not None:
            break
    return data


async def _is_retained(redis: Any, record: SessionRecord) -> bool:
    """Whether a client may ask for it: it has a name, has ended, and was not evicted."""
    ref = record.ref
    is_named = not record.owner and record.state.is_final
    return is_named and bool(await redis.hexists(keys.route(ref.conversation), f"s:{ref.epoch}"))


async def _copies(lines: Lines, record: SessionRecord) -> dict[str, bytes]:
    params: dict[str, str | int] = {"conv_id": record.name, "epoch": record.epoch}
    copies = {}
    for node in range(len(lines.nodes)):
        try:
            answer = await lines.http.get(lines.url(node, STREAM), params=params)
            copies[f"api-{node + 1}"] = answer.content
        except httpx.TransportError as error:
            copies[f"api-{node + 1}"] = f"{error!r}".encode()
    return copies


def open_files(world: World) -> dict[int, int]:
    """How many files each node and worker has open, by process id."""
    found = {}
    for pid in world.pids.values():
        try:
            found[pid or 0] = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
    return found


async def leaks(
    world: World, files_before: dict[int, int], *, until_compacted: bool = True
) -> list[str]:
    """What has not gone back to how it was, though given time (I7)."""
    empty = (QUEUES, WATCHED) if until_compacted else (QUEUES,)
    left: list[str] = []
    for _ in range(round(REST_MAX_S / LOOK_S)):
        if not (left := await _left(world, files_before, empty)):
            break
        await asyncio.sleep(LOOK_S)
    return left


async def _left(world: World, files_before: dict[int, int], empty: Sequence[str]) -> list[str]:
    async with world.db() as redis:
        left = [f"{key} has no TTL" async for key in _immortal(redis)]
        left += [f"{key} is not empty" async for key in _unfinished(redis, empty)]
        left += await _slots(redis, world)
    now = open_files(world)
    left += [
        f"process {pid} has {now[pid]} files open, {before} before"
        for pid, before in files_before.items()
        if now.get(pid, 0) > before + FILES_SLACK
    ]
    return left


async def _immortal(redis: Redis) -> AsyncIterator[str]:
    async for key in redis.scan_iter(count=1000):
        if await redis.ttl(key) == -1:
            yield key.decode()


async def _unfinished(redis: Redis, patterns: Sequence[str]) -> AsyncIterator[str]:
    for pattern in patterns:
        async for key in redis.scan_iter(pattern, count=1000, _type="zset"):
            if await redis.zcard(key):
                yield key.decode()


async def _slots(redis: Redis, world: World) -> list[str]:
    workers = await Directory(redis).workers()
    if len(workers) != world.topology.workers:
        return [f"{len(workers)} of {world.topology.workers} workers are there"]
    return [
        f"{worker.id} has {model.slots_free} of {model.slots} slots free"
        for worker in workers
        for model in worker.models
        if model.slots_free != model.slots
    ]
