"""The queue plane as a node uses it: jobs, their order, and the wake-up. The only import of arq.

A job carries the session's path and nothing else. arq sorts by the enqueuing node's clock, which
may be ten minutes off; so the score is a counter in Redis, told to arq as a point in 1970.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from arq.connections import ArqRedis
from arq.constants import job_key_prefix

from replay import keys
from replay.identity import SessionRef, encode
from replay.redis_plane import pool, translated

JOB = "generate"
JOB_TTL_S = 6 * 3600
"""arq derives it from the score's distance to now, which is negative here, unless it is told."""

NUMBER_TTL_S = 30 * 86400
"""Nothing is queued for so long; after that the order may begin anew."""

DISPATCHES_LOOKED_AT = 3
"""Of a session whose dispatch number is not known, so many are tried."""


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

    async def ping(self) -> None:
        """Returns where the queue plane answers."""
        ...


def job_id(ref: SessionRef, dispatch: int) -> str:
    """A job's id is its session's path and the number of this dispatch."""
    return f"{ref.path()}:{dispatch}"


def at_score(number: int) -> datetime:
    """The time that arq turns into exactly this score."""
    return datetime.fromtimestamp(number / 1000, UTC)


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
            pipeline.expire(keys.queue_number(), NUMBER_TTL_S)
            number, _ = await pipeline.execute()
        return int(number)

    async def enqueue(self, ref: SessionRef, *, dispatch: int, number: int) -> None:
        async with translated("enqueue"):
            await self._arq.enqueue_job(
                JOB,
                ref.path(),
                _job_id=job_id(ref, dispatch),
                _queue_name=keys.queue(ref.model),
                _defer_until=at_score(number),
                _expires=JOB_TTL_S,
            )
            await self._arq.publish(keys.wake(), encode(ref.model))

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

    async def ping(self) -> None:
        async with translated("ping"):
            await self._arq.ping()
