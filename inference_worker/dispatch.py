"""Takes sessions out of the queues: the workers' only use of arq.

arq polls; we make it poll when there is a reason: a wake-up from a node, a slot that became free,
or its interval. It picks one job at a time and only while a slot is free, because a job that it
has picked nobody else can see. A job is short: claim the session, hand it to a slot, return.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.exceptions import RedisError

from inference_worker.engine import Engine
from replay import keys
from replay.errors import LogUnavailable
from replay.identity import SessionRef, encode
from replay.log_values import Look
from replay.outage import Outage
from replay.queue import JOB, JOB_TTL_S, QUEUE_TTL_S, due_at, job_id
from replay.redis_plane import pool

POLL_INTERVAL_S = 0.5
JOB_LIMIT_S = 5
PLACES_LOOKED_AT = 64
"""How many entries that others are starting one poll looks past."""

RETRY_S = 0.5

if TYPE_CHECKING:
    from arq.typing import WorkerCoroutine

logger = logging.getLogger(__name__)
logging.getLogger("arq").setLevel(logging.WARNING)

Pool = ArqRedis
Start = Callable[[Engine, SessionRef], Awaitable[None]]
Room = Callable[[Engine], int]
"""How many more sessions an engine can take."""


def _dumps(value: dict[str, Any]) -> bytes:
    return json.dumps(value, default=str).encode()


def open_pool(url: str) -> Pool:
    """arq's client on the queue plane, closed by its opener; JSON, never pickle."""
    client = ArqRedis(pool(url), job_serializer=_dumps, job_deserializer=json.loads)
    client.auto_close_connection_pool = True
    return client


class Dispatch:
    """The queues of one worker's models. Each is polled by the task that awaits ``run``."""

    def __init__(self, pool: ArqRedis, start: Start, *, room: Room) -> None:
        self._pool = pool
        self._start = start
        self._room = room
        self._wakes: dict[str, asyncio.Event] = {}
        self.picks = True

    def wake(self, model: str) -> None:
        """That model's queue has a job, or one of its slots became free."""
        if (event := self._wakes.get(model)) is not None:
            event.set()

    def wake_all(self) -> None:
        """Some queue may have a job."""
        for event in self._wakes.values():
            event.set()

    async def run(self, engine: Engine) -> None:
        """Polls one model's queue until it is cancelled, also while Redis is away."""
        model = engine.model.name
        wake = self._wakes.setdefault(model, asyncio.Event())
        worker, outage = self._worker(engine), Outage(logger, f"queue of {model}")
        try:
            while True:
                try:
                    picked = await self._poll(worker, engine)
                except (RedisError, OSError) as error:
                    outage.goes_on(error)
                    await asyncio.sleep(RETRY_S)
                    await _started(worker)
                    # An error between arq's counting and its picking leaves it counting one job
                    # for ever, and with one at a time it would never pick again.
                    worker = self._worker(engine)
                    continue
                outage.is_over()
                if not picked:
                    await _first(wake.wait(), POLL_INTERVAL_S)
                    wake.clear()
        finally:
            # A start that is under way becomes a session, which the drain must see.
            await _started(worker)

    async def _poll(self, worker: Worker, engine: Engine) -> bool:
        """Picks the first job that nobody else is starting; whether there was one.

        An entry stays in the queue while somebody starts it, and for a while after a worker has
        died doing so; it must not hide those behind it.
        """
        worker.allow_pick_jobs = self.picks and self._room(engine) > 0
        for place in range(PLACES_LOOKED_AT):
            worker._queue_read_offset = place
            # arq offers no poll on demand but this; its main loop would add its interval to every
            # dispatch, and ends for good on the first error.
            await worker._poll_iteration()
            if tasks := list(worker.tasks.values()):
                await asyncio.wait(tasks)
                return True
            if not worker.allow_pick_jobs or await self._pool.zcard(worker.queue_name) <= place + 1:
                break
        return False

    def _worker(self, engine: Engine) -> Worker:
        async def generate(context: dict[Any, Any], path: str) -> None:
            try:
                await self._start(engine, SessionRef.from_path(path))
            except LogUnavailable as error:  # the sweeper queues the session again
                logger.warning("not started: %s: %s", path, error)

        worker = Worker(
            functions=[func(cast("WorkerCoroutine", generate), name=JOB)],
            queue_name=keys.queue(engine.model.name),
            redis_pool=self._pool,
            handle_signals=False,
            max_jobs=1,
            queue_read_limit=1,
            job_timeout=JOB_LIMIT_S,
            keep_result=0,
            poll_delay=POLL_INTERVAL_S,
            job_serializer=_dumps,
            job_deserializer=json.loads,
        )
        worker.in_progress_timeout_s = JOB_LIMIT_S  # arq adds 10 s: so long would a death hide it
        return worker

    async def requeue(self, look: Look, dispatch: int) -> None:
        """``enqueue``, for a sweeper."""
        await self.enqueue(look.ref, look.queue_number, dispatch)

    async def enqueue(self, ref: SessionRef, queue_number: int, dispatch: int) -> None:
        """Puts a session into its queue again, at its old place. Raises LogUnavailable."""
        queue = keys.queue(ref.model)
        try:
            await self._pool.enqueue_job(
                JOB,
                ref.path(),
                _job_id=job_id(ref, dispatch),
                _queue_name=queue,
                _defer_until=due_at(queue_number),
                _expires=JOB_TTL_S,
            )
            await self._pool.expire(queue, QUEUE_TTL_S)
            await self._pool.publish(keys.wake(), encode(ref.model))
        except (RedisError, OSError) as error:
            raise LogUnavailable(f"enqueue: {error}") from error

    async def has_job(self, look: Look) -> bool:
        """Whether the session still stands in its queue. Raises LogUnavailable."""
        queue = keys.queue(look.ref.model)
        try:
            score = await self._pool.zscore(queue, job_id(look.ref, look.dispatch))
        except (RedisError, OSError) as error:
            raise LogUnavailable(f"queue: {error}") from error
        return score is not None


async def _started(worker: Worker) -> None:
    if tasks := list(worker.tasks.values()):
        await asyncio.wait(tasks, timeout=JOB_LIMIT_S)


async def _first(event: Awaitable[Any], limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await event
    except TimeoutError:
        return
