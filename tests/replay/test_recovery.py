"""A stop that was answered is issued again where Redis has forgotten it, and never as another."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator

import pytest
from log_contract import close, produced

from replay.memory_log import MemoryLog
from replay.records import State
from replay.recovery import Recovery

pytestmark = pytest.mark.anyio
LIMIT_S = 10.0


class ForgetfulLog(MemoryLog):
    """A log that goes back to where it was held."""

    def hold(self) -> None:
        self._held = copy.deepcopy((self._routes, self._sessions))

    def forget(self) -> None:
        self._routes, self._sessions = self._held
        self.run += "+"


@pytest.fixture
def log() -> ForgetfulLog:
    return ForgetfulLog(lambda: 1_700_000_000_000)


@pytest.fixture
async def recovery(log: ForgetfulLog) -> AsyncIterator[Recovery]:
    recovery = Recovery(log, lease_s=0.1)
    task = asyncio.create_task(recovery.watch())
    await asyncio.sleep(0)  # now it knows which start this is
    yield recovery
    task.cancel()
    await asyncio.wait([task])


async def forgotten(log: ForgetfulLog, recovery: Recovery) -> None:
    """Returns when the forgetting has been seen, and what was to be said again has been said."""
    log.forget()
    recovery.look()
    async with asyncio.timeout(LIMIT_S):
        while recovery.is_under_way:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("has_completed", [False, True], ids=["running", "completed"])
@pytest.mark.parametrize("keep", [False, True], ids=["evicted", "kept"])
async def test_what_a_stop_did_is_done_again(
    log: ForgetfulLog, recovery: Recovery, keep: bool, has_completed: bool
) -> None:
    ref, claim = await produced(log)
    log.hold()
    if has_completed:
        await close(log, claim, 0, b"whole")
    stopped = await log.stop("t", "c", epoch=None, keep=keep, reason="client")
    assert stopped is not None
    recovery.remember(stopped, keep=keep, reason="client")
    await forgotten(log, recovery)
    record = await log.record(ref)
    assert record is not None
    did_nothing = keep and has_completed
    end = (State.RUNNING, "") if did_nothing else (State.STOPPED, "client")
    assert (record.state, record.reason) == end
