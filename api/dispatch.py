"""The queue plane as a node uses it: jobs, their order, and the wake-up. The only import of arq.

What a job is called and where it stands is decided in ``replay.queue``, for workers too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job

from replay import keys
from replay.identity import SessionRef, encode
from replay.queue import JOB, JOB_TTL_S, QUEUE_TTL_S, job_id
from replay.redis_plane import pool, translated

DISPATCHES_LOOKED_AT = 3
"""Of a session whose dispatch number is not known, so many are tried."""

SCAN_PAGE_JOBS = 1000
"""How many jobs are looked at in one step, so that no reply blocks Redis for long."""


class JobQueue(Protocol):
    """What a node needs of the queues. Every method raises LogUnavailable."""

    async def next_number(self) -> int:
        """The next place in the order of all sessions; greater than 0."""
        ...

    async def enqueue(self, ref: SessionRef, *, dispatch: int, number: int) -> None:
        """Puts the session into its model's queue and wakes the workers. Idempotent."""
        ...

    async def remove(self, ref: SessionRef, *, dispatch: int) -> None:
        """Takes the session out of its queue, if it is there."""
        ...

    async def has_job(self, ref: SessionRef, *, dispatch: int) -> bool:
        """Whether that job is still in the queue."""
        ...

    async def positions(self, waiting: Sequence[tuple[SessionRef, int]]) -> list[int | None]:
        """How many jobs stand before each, given with its dispatch number; None: not queued."""
        ...

    async def depths(self, models: Sequence[str]) -> list[int]:
        """How many jobs wait for each model."""
        ...

    async def waiting(self, tenant: str, models: Sequence[str]) -> int:
        """How many of the jobs that wait for these models are the tenant's."""
        ...

    async def ping(self) -> None:
        """Returns where the queue plane answers."""
        ...


def _to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


async def position_of(queue: JobQueue, ref: SessionRef) -> int | None:
    """The place of a session whose dispatch number is not known."""
    tried = range(1, DISPATCHES_LOOKED_AT + 1)
    found = await queue.positions([(ref, dispatch) for dispatch in tried])
    return next((position for position in found if position is not None), None)


class ArqQueue:
    """``JobQueue`` over arq. Owns its connections: ``aclose`` them."""

    def __init__(self, url: str) -> None:
        self._pool: Any = pool(url)
        self._arq: Any = ArqRedis(self._pool, job_serializer=_to_json, job_deserializer=json.loads)

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._arq.aclose()
        await self._pool.aclose()

    async def next_number(self) -> int:
        async with translated("queue number"), self._arq.pipeline(transaction=False) as pipeline:
            pipeline.incr(keys.queue_number())
            pipeline.expire(keys.queue_number(), QUEUE_TTL_S)
            number, _ = await pipeline.execute()
        return int(number)

    async def enqueue(self, ref: SessionRef, *, dispatch: int, number: int) -> None:
        # What arq's enqueue_job writes, in one trip instead of three: it first looks whether the
        # job is there, and ours may be written twice.
        job = job_id(ref, dispatch)
        text = serialize_job(JOB, (ref.path(),), {}, None, 0, serializer=_to_json)
        async with translated("enqueue"), self._arq.pipeline(transaction=True) as pipeline:
            pipeline.psetex(job_key_prefix + job, JOB_TTL_S * 1000, text)
            pipeline.zadd(keys.queue(ref.model), {job: number}, nx=True)
            pipeline.expire(keys.queue(ref.model), QUEUE_TTL_S)
            pipeline.publish(keys.wake(), encode(ref.model))
            await pipeline.execute()

    async def remove(self, ref: SessionRef, *, dispatch: int) -> None:
        job = job_id(ref, dispatch)
        async with translated("dequeue"), self._arq.pipeline(transaction=True) as pipeline:
            pipeline.zrem(keys.queue(ref.model), job)
            pipeline.delete(job_key_prefix + job)
            await pipeline.execute()

    async def has_job(self, ref: SessionRef, *, dispatch: int) -> bool:
        return (await self.positions([(ref, dispatch)])) != [None]

    async def positions(self, waiting: Sequence[tuple[SessionRef, int]]) -> list[int | None]:
        if not waiting:
            return []
        async with translated("positions"), self._arq.pipeline(transaction=False) as pipeline:
            for ref, dispatch in waiting:
                pipeline.zrank(keys.queue(ref.model), job_id(ref, dispatch))
            found: list[int | None] = await pipeline.execute()
        return found

    async def depths(self, models: Sequence[str]) -> list[int]:
        async with translated("depths"), self._arq.pipeline(transaction=False) as pipeline:
            for model in models:
                pipeline.zcard(keys.queue(model))
            found: list[int] = await pipeline.execute()
        return found

    async def waiting(self, tenant: str, models: Sequence[str]) -> int:
        count = 0
        async with translated("waiting"):
            for model in models:  # an encoded tenant has none of a pattern's characters
                jobs = self._arq.zscan_iter(
                    keys.queue(model), match=f"{encode(tenant)}/*", count=SCAN_PAGE_JOBS
                )
                count += len({job async for job, _ in jobs})  # it may tell one twice
        return count

    async def ping(self) -> None:
        async with translated("ping"):
            await self._arq.ping()
