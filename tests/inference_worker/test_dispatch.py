"""Jobs into slots: at once, in order, one at a time, whatever clocks and dead workers do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import arq.connections
import arq.utils
import arq.worker
import pytest
from arq.constants import in_progress_key_prefix, job_key_prefix
from redis.asyncio import Redis

from inference_worker import dispatch
from inference_worker.dispatch import Dispatch, Pool, open_pool
from replay import keys
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log_values import Look
from replay.queue import JOB, job_id
from replay.records import State
from tests.redis_server import free_port

pytestmark = pytest.mark.anyio
LIMIT_S = 10.0
PROMPT_S = 10.0
"""Far less than the next poll under ``slow_polls``, and enough for a busy machine."""
"""What was announced is picked far sooner than the next poll by the clock."""


def look(number: int, *, queue_number: int = 0, dispatch: int = 1, model: str = "m") -> Look:
    return Look(
        ref=SessionRef("t", f"c{number}", model, number),
        state=State.QUEUED,
        lease_until_ms=0,
        now_ms=1,
        created_ms=1,
        queue_number=queue_number or number,
        dispatch=dispatch,
        owner="",
        dialect="openai.chat",
    )


class Slots:
    """An engine of which only the free slots matter."""

    def __init__(self, free: int, model: str = "m") -> None:
        self.free_slots = free
        self.model = SimpleNamespace(name=model)


class Desk:
    """A dispatch, what it started, and how often it asked for jobs."""

    def __init__(self, pool: Pool, slots: Slots) -> None:
        self.pool, self.slots = pool, slots
        self.started: list[int] = []
        self.at_once = self.most_at_once = self.polls = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.error: Exception | None = None
        self.dispatch = Dispatch(pool, self._start, room=lambda engine: engine.free_slots)
        self._zrangebyscore = pool.zrangebyscore
        pool.zrangebyscore = self._asked  # type: ignore[method-assign]

    async def _asked(self, *args: Any, **more: Any) -> Any:
        self.polls += 1
        return await self._zrangebyscore(*args, **more)

    async def _start(self, engine: Any, ref: SessionRef) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.hold.wait()
            if self.error is not None:
                raise self.error
            self.slots.free_slots -= 1
            self.started.append(ref.epoch)
        finally:
            self.at_once -= 1

    async def put(self, *numbers: int, **more: Any) -> None:
        for number in numbers:
            seen = look(number, **more)
            await self.dispatch.requeue(seen, seen.dispatch)

    def free(self, slots: int) -> None:
        self.slots.free_slots += slots
        self.dispatch.wake("m")

    async def until(self, condition: Callable[[], Any], limit_s: float = LIMIT_S) -> None:
        async with asyncio.timeout(limit_s):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.002)  # a pick tells nobody


@asynccontextmanager
async def desks(url: str, *, free: int = 1, runs: bool = True) -> AsyncIterator[Desk]:
    pool = open_pool(url)
    desk = Desk(pool, Slots(free))
    task = asyncio.create_task(desk.dispatch.run(desk.slots)) if runs else None  # type: ignore[arg-type]
    try:
        yield desk
    finally:
        desk.hold.set()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if jobs := _jobs():
            await asyncio.wait(jobs, timeout=LIMIT_S)
        await pool.aclose()


def _jobs() -> set[asyncio.Task[Any]]:
    """What arq runs at this moment."""
    return {
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "__qualname__", "") == "Worker.run_job"
    }


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    async with desks(redis_url) as one:
        yield one


@pytest.fixture
def slow_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a wake-up leads to a poll."""
    monkeypatch.setattr(dispatch, "POLL_INTERVAL_S", 60.0)


@pytest.mark.usefixtures("slow_polls")
async def test_a_job_is_picked_at_its_wake_up(desk: Desk) -> None:
    await desk.until(lambda: desk.polls)
    await desk.put(1)
    desk.dispatch.wake("m")
    await desk.until(lambda: desk.started == [1], PROMPT_S)


@pytest.mark.usefixtures("slow_polls")
async def test_a_wake_up_is_one_poll(desk: Desk) -> None:
    await desk.until(lambda: desk.polls == 1)
    for polls in range(2, 6):
        desk.dispatch.wake("m")
        await desk.until(lambda: desk.polls == polls)  # noqa: B023  # awaited in this round
    for _ in range(10):
        desk.dispatch.wake("other")
        await asyncio.sleep(0.002)  # time for a poll that must not come
    assert desk.polls == 5
    desk.dispatch.wake_all()
    await desk.until(lambda: desk.polls == 6)


async def test_without_a_wake_up_the_clock_finds_the_job(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "POLL_INTERVAL_S", 0.02)
    async with desks(redis_url) as desk:
        await desk.until(lambda: desk.polls)
        await desk.put(1)
        await desk.until(lambda: desk.started == [1])


@pytest.mark.usefixtures("slow_polls")
async def test_no_job_is_asked_for_while_no_slot_is_free(redis_url: str, redis: Redis) -> None:
    async with desks(redis_url, free=0) as desk:
        await desk.put(1, 2, 3)
        for _ in range(10):
            desk.dispatch.wake("m")
            await asyncio.sleep(0.002)  # time for a poll that must not come
        assert (desk.polls, desk.started) == (0, [])
        assert await redis.zcard(keys.queue("m")) == 3
        assert not [key async for key in redis.scan_iter(in_progress_key_prefix + "*")]
        desk.free(1)
        await desk.until(lambda: desk.started == [1])
        desk.free(1)
        await desk.until(lambda: desk.started == [1, 2])
        assert await redis.zcard(keys.queue("m")) == 1


async def test_a_worker_that_drains_picks_nothing(desk: Desk) -> None:
    desk.dispatch.picks = False
    await desk.put(1)
    for _ in range(10):
        desk.dispatch.wake("m")
        await asyncio.sleep(0.002)  # time for a pick that must not come
    assert desk.started == []


@pytest.mark.usefixtures("slow_polls")
async def test_jobs_are_started_one_at_a_time_and_all_free_slots_are_filled(
    redis_url: str,
) -> None:
    async with desks(redis_url, free=4) as desk:
        await desk.put(*range(1, 7))
        desk.dispatch.wake("m")
        await desk.until(lambda: len(desk.started) == 4, PROMPT_S)
        assert desk.started == [1, 2, 3, 4]
        assert desk.most_at_once == 1
        assert desk.slots.free_slots == 0


@pytest.mark.usefixtures("slow_polls")
async def test_a_job_that_takes_no_slot_leaves_it_to_the_next(redis_url: str) -> None:
    async with desks(redis_url) as desk:
        real = desk._start

        async def not_claimed(engine: Any, ref: SessionRef) -> None:
            if ref.epoch != 1:
                await real(engine, ref)

        desk.dispatch._start = not_claimed
        await desk.put(1, 2)
        desk.dispatch.wake("m")
        await desk.until(lambda: desk.started == [2], PROMPT_S)


@pytest.mark.parametrize("skew_s", [600, -600])
@pytest.mark.usefixtures("slow_polls")
async def test_wrong_clocks_change_neither_order_nor_speed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    """Every second job comes from a node whose clock is ten minutes off."""
    real = time.time
    async with desks(redis_url, free=0) as desk:
        for number in (3, 1, 4, 2, 6, 5):
            skew = skew_s if number % 2 else 0
            monkeypatch.setattr(arq.utils, "time", lambda: real() + skew)  # noqa: B023  # used at once
            await desk.put(number)
        monkeypatch.setattr(arq.utils, "time", lambda: real() - skew_s)  # and the worker's too
        desk.free(6)
        await desk.until(lambda: len(desk.started) == 6, PROMPT_S)
        assert desk.started == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("slow_polls")
async def test_a_session_that_is_queued_again_keeps_its_old_place(redis_url: str) -> None:
    async with desks(redis_url, free=0) as desk:
        await desk.put(5, 6)
        await desk.put(9, queue_number=1, dispatch=2)
        desk.free(3)
        await desk.until(lambda: len(desk.started) == 3)
        assert desk.started == [9, 5, 6]


async def test_a_job_that_a_dead_worker_picked_holds_up_nobody_else(
    redis_url: str, redis: Redis
) -> None:
    """It died between pick and claim: arq's mark stays for 15 s, and the job before the others."""
    async with desks(redis_url, free=0) as desk:
        await desk.put(1, 2)
        await redis.psetex(in_progress_key_prefix + job_id(look(1).ref, 1), 15_000, b"1")
        desk.free(1)
        await desk.until(lambda: desk.started == [2])


async def test_a_job_that_another_worker_is_starting_holds_up_nobody_else(redis_url: str) -> None:
    async with desks(redis_url) as slow, desks(redis_url) as quick:
        slow.hold.clear()
        await slow.put(1)
        slow.dispatch.wake("m")
        await slow.until(lambda: slow.at_once)
        await quick.put(2)
        quick.dispatch.wake("m")
        try:
            await quick.until(lambda: quick.started == [2])
        finally:
            slow.hold.set()
        await slow.until(lambda: slow.started == [1])


async def test_two_workers_never_start_the_same_job(redis_url: str) -> None:
    async with desks(redis_url, free=10) as one, desks(redis_url, free=10) as other:
        for number in range(1, 13):
            await one.put(number)
            one.dispatch.wake("m")
            other.dispatch.wake("m")
        await one.until(lambda: len(one.started) + len(other.started) == 12)
        assert sorted(one.started + other.started) == list(range(1, 13))


async def test_a_job_whose_log_is_away_is_over_and_leaves_no_trace(
    desk: Desk, redis: Redis
) -> None:
    desk.error = LogUnavailable("claim")
    await desk.put(1)
    desk.dispatch.wake("m")
    async with asyncio.timeout(LIMIT_S):
        while True:
            if not await redis.zcard(keys.queue("m")):
                break
    desk.error = None
    await desk.put(1)  # nothing remembers the first, the same dispatch may come again
    desk.dispatch.wake("m")
    await desk.until(lambda: desk.started == [1])


async def test_a_start_that_fails_ends_neither_the_queue_nor_its_task(desk: Desk) -> None:
    desk.error = RuntimeError("a bug")
    await desk.put(1)
    desk.dispatch.wake("m")
    await desk.until(lambda: desk.most_at_once)
    desk.error = None
    await desk.put(2)
    desk.dispatch.wake("m")
    await desk.until(lambda: desk.started == [2])


async def test_the_queue_is_polled_again_after_redis_was_away(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "RETRY_S", 0.01)
    async with desks(redis_url, free=10) as desk:
        real = desk._zrangebyscore
        for number in range(1, 4):
            failures = [ConnectionError("away"), arq.worker.ResponseError("LOADING")]

            async def away(*args: Any, **more: Any) -> Any:
                if failures:  # noqa: B023  # awaited in this round
                    raise failures.pop()  # noqa: B023
                return await real(*args, **more)

            desk._zrangebyscore = away  # type: ignore[method-assign]
            desk.dispatch.wake("m")
            await desk.until(lambda: not failures)  # noqa: B023
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await desk.put(number)
            desk.dispatch.wake("m")
            await desk.until(lambda: len(desk.started) == number)  # noqa: B023
        assert desk.started == [1, 2, 3]


async def test_nothing_is_left_when_the_queue_is_left_in_the_middle_of_a_start(
    redis_url: str,
) -> None:
    """A start that outlives its queue would take a slot of a worker that has drained."""
    async with desks(redis_url, runs=False) as desk:
        before = asyncio.all_tasks()
        desk.hold.clear()
        await desk.put(1)
        run = asyncio.ensure_future(desk.dispatch.run(desk.slots))  # type: ignore[arg-type]
        await desk.until(lambda: desk.at_once)
        run.cancel()
        asyncio.get_running_loop().call_later(0.05, desk.hold.set)  # it may wait for the start
        await asyncio.wait([run])
        assert asyncio.all_tasks() - before == set()


async def test_a_job_is_json_and_the_queue_does_not_live_for_ever(
    redis_url: str, redis: Redis
) -> None:
    async with desks(redis_url, runs=False) as desk:
        await desk.put(7)
        (member,) = await redis.zrange(keys.queue("m"), 0, -1, withscores=True)
        assert member == (job_id(look(7).ref, 1).encode(), 7.0)
        stored = await redis.get(job_key_prefix + job_id(look(7).ref, 1))
        assert JOB.encode() in stored
        assert stored.startswith(b"{")
        assert await redis.ttl(keys.queue("m")) > 0


async def test_a_job_is_there_until_it_was_started(redis_url: str) -> None:
    async with desks(redis_url, free=0) as desk:
        seen = look(1)
        assert not await desk.dispatch.has_job(seen)
        await desk.put(1)
        await desk.put(1)
        assert await desk.dispatch.has_job(seen)
        assert not await desk.dispatch.has_job(look(1, dispatch=2))
        desk.free(1)
        await desk.until(lambda: desk.started == [1])
        async with asyncio.timeout(LIMIT_S):
            while True:
                if not await desk.dispatch.has_job(seen):
                    return


async def test_a_queue_that_is_away_is_our_error() -> None:
    async with desks(f"redis://127.0.0.1:{free_port()}", runs=False) as desk:
        with pytest.raises(LogUnavailable):
            await desk.put(1)
        with pytest.raises(LogUnavailable):
            await desk.dispatch.has_job(look(1))
