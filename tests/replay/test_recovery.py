"""A Redis that comes back: for how long a process doubts it, and what it says again."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from log_harness import close, produced

from replay import recovery
from replay.errors import EpochMismatch, LogUnavailable
from replay.identity import SessionRef
from replay.log_values import Stopped
from replay.memory_log import MemoryLog
from replay.records import State
from replay.recovery import Recovery

pytestmark = pytest.mark.anyio
LIMIT_S = 10.0


def stopped(name: str = "c", *, stopped: bool = True, reason: str = "client") -> Stopped:
    state = State.STOPPED if stopped else State.COMPLETED
    return Stopped(stopped, SessionRef("t", name, "m", 7), state, reason, 10, "w", 1, 1, True)


class Log:
    """Says which Redis it is, when it may, and notes what it is told."""

    def __init__(self) -> None:
        self.run = "one"
        self.asked = 0
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.stops: list[tuple[str, int | None, bool, str]] = []
        self.refusals: list[Exception] = []
        self.rewatched = 0

    async def run_id(self) -> str:
        self.asked += 1
        run = self.run
        await self.answers.wait()
        if self.away:
            raise LogUnavailable("away")
        return run

    async def rewatch(self) -> None:
        self.rewatched += 1

    async def stop(
        self, tenant: str, name: str, *, epoch: int | None, keep: bool, reason: str
    ) -> Stopped | None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.stops.append((name, epoch, keep, reason))
        return None


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)  # nobody tells


@asynccontextmanager
async def watched(log: Any, lease_s: float = 60.0) -> AsyncIterator[Recovery]:
    """A recovery that has asked once."""
    one = Recovery(log, lease_s=lease_s)
    task = asyncio.create_task(one.watch())
    try:
        await until(lambda: one._run and not one.is_under_way)
        yield one
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "ASK_INTERVAL_S", 0.01)
    monkeypatch.setattr(recovery, "RETRY_S", 0.01)


async def test_who_starts_has_nothing_to_recover(log: Log) -> None:
    one = Recovery(log, lease_s=60)
    one.look()
    assert not one.is_under_way
    async with watched(log) as one:
        one.check()
        assert (log.stops, log.rewatched) == ([], 0)


async def test_a_connection_that_broke_casts_doubt_until_redis_has_answered(log: Log) -> None:
    async with watched(log) as one:
        log.answers.clear()
        one.look()
        assert one.is_under_way
        with pytest.raises(LogUnavailable):
            one.check()
        await until(lambda: log.asked == 2)
        assert one.is_under_way
        log.answers.set()
        await until(lambda: not one.is_under_way)  # the same Redis: nothing was forgotten
        assert log.stops == []


async def test_what_breaks_while_it_is_asked_is_asked_about_again(log: Log) -> None:
    async with watched(log) as one:
        log.answers.clear()
        one.look()
        await until(lambda: log.asked == 2)  # by the Redis that is about to die
        one.look()
        log.run = "two"
        log.answers.set()
        await until(lambda: log.asked == 3)
        await until(lambda: log.rewatched)
        assert one.is_under_way


@pytest.mark.usefixtures("hasty")
async def test_another_redis_is_noticed_though_nothing_broke(log: Log) -> None:
    async with watched(log) as one:
        log.run = "two"
        await until(lambda: one.is_under_way)
        await until(lambda: log.rewatched == 1)


@pytest.mark.usefixtures("hasty")
async def test_the_doubt_lasts_a_lease(log: Log) -> None:
    async with watched(log, lease_s=1.0) as one:
        log.run = "two"
        await until(lambda: one.is_under_way)
        await until(lambda: not one.is_under_way)
        one.check()


@pytest.mark.usefixtures("hasty")
async def test_a_redis_that_is_away_is_asked_until_it_answers(log: Log) -> None:
    async with watched(log) as one:
        log.away = True
        one.look()
        before = log.asked
        await until(lambda: log.asked > before + 3)
        assert one.is_under_way
        log.away = False
        await until(lambda: not one.is_under_way)


@pytest.mark.usefixtures("hasty")
async def test_stops_are_issued_again_at_once_and_after_a_lease(log: Log) -> None:
    """A session that was forgotten as well comes back only when its producer has said so."""
    async with watched(log, lease_s=1.0) as one:
        one.remember(stopped("a"), keep=True, reason="client")
        one.remember(stopped("b", reason="disconnected"), keep=False, reason="client")
        log.run = "two"
        both = [("a", 7, True, "client"), ("b", 7, False, "disconnected")]
        await until(lambda: one.is_under_way and len(log.stops) >= 2)
        assert log.stops == both
        await until(lambda: len(log.stops) > 2)
        assert not one.is_under_way
        asked = log.asked
        await until(lambda: log.asked > asked + 5)
        assert log.stops == 2 * both


@pytest.mark.usefixtures("hasty")
async def test_a_stop_that_fails_is_tried_again_with_all_others(log: Log) -> None:
    log.refusals = [EpochMismatch(7, 8), LogUnavailable("away")]
    async with watched(log) as one:
        for name in ("a", "b", "c"):
            one.remember(stopped(name), keep=True, reason="client")
        log.run = "two"
        await until(lambda: log.rewatched)
        assert [name for name, *_ in log.stops] == ["a", "b", "c"]


@pytest.mark.usefixtures("hasty")
async def test_old_stops_are_not_issued_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(log) as one:
        one.remember(stopped("old"), keep=True, reason="client")
        monkeypatch.setattr(recovery, "STOP_MEMORY_S", 0.0)
        log.run = "two"
        await until(lambda: log.rewatched)
        assert log.stops == []


class ForgetfulLog(MemoryLog):
    """A whole log that goes back to where it was held."""

    def hold(self) -> None:
        self._held = copy.deepcopy((self._routes, self._sessions))

    def forget(self) -> None:
        self._routes, self._sessions = self._held
        self.run += "+"


@pytest.mark.parametrize("has_completed", [False, True], ids=["running", "completed"])
@pytest.mark.parametrize("keep", [False, True], ids=["evicted", "kept"])
async def test_what_a_stop_did_is_done_again(keep: bool, has_completed: bool) -> None:
    log = ForgetfulLog(lambda: 1_700_000_000_000)
    ref, claim = await produced(log)
    log.hold()
    if has_completed:
        await close(log, claim, 0, b"whole")
    done = await log.stop("t", "c", epoch=None, keep=keep, reason="client")
    assert done is not None
    async with watched(log, lease_s=0.1) as one:
        one.remember(done, keep=keep, reason="client")
        log.forget()
        one.look()
        await until(lambda: not one.is_under_way)
    record = await log.record(ref)
    assert record is not None
    did_nothing = keep and has_completed
    end = (State.RUNNING, "") if did_nothing else (State.STOPPED, "client")
    assert (record.state, record.reason) == end
