"""What a process knows of a Redis that may have forgotten: for how long, and what to say again.

A Redis that was restarted, or replaced by its replica, may lack its last seconds. Producers then
make their sessions known again; until they have had the time, whoever finds no session does not
know that there is none. A stop that was answered and then forgotten is issued again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, Protocol

from replay.errors import EpochMismatch, LogUnavailable
from replay.identity import SessionRef
from replay.log_values import Stopped
from replay.records import State

ASK_INTERVAL_S = 2.0
"""A failover within a Redis Cluster may break no connection of ours, so it is asked about."""

RETRY_S = 0.2
STOP_MEMORY_S = 60.0
"""How long a stop is remembered; Redis forgets seconds."""

STOPS_MAX = 10_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stop:
    at_s: float
    ref: SessionRef
    keep: bool
    reason: str


class ForgetfulLog(Protocol):
    """What is asked of the log, and told again."""

    async def run_id(self) -> str:
        """Names this start of Redis. Raises LogUnavailable."""
        ...

    async def rewatch(self) -> None:
        """See ``Leases``."""
        ...

    async def stop(
        self, tenant: str, name: str, *, epoch: int | None, keep: bool, reason: str
    ) -> Stopped | None:
        """See ``SessionLog``."""
        ...


class Recovery:
    """One process's view of its Redis. Owned by the task that awaits ``watch``."""

    def __init__(self, log: ForgetfulLog, *, lease_s: float) -> None:
        self._log = log
        self._period_s = lease_s
        self._run = ""
        self._until_s = 0.0
        self._is_sure = False
        self._stops_due_s: list[float] = []
        self._wants_rewatch = False
        self._asks = asyncio.Event()
        self._stops: deque[_Stop] = deque(maxlen=STOPS_MAX)

    def look(self) -> None:
        """A connection broke: until the answer is there, anything may have been forgotten."""
        self._is_sure = False
        self._asks.set()

    @property
    def is_under_way(self) -> bool:
        """Whether a session that is not there may come back."""
        is_asking = not self._is_sure and bool(self._run)
        return is_asking or time.monotonic() < self._until_s

    def check(self) -> None:
        """Called where a session is not there. Raises LogUnavailable where it may come back."""
        if self.is_under_way:
            raise LogUnavailable("Redis has just come back")

    def remember(self, stopped: Stopped, *, keep: bool, reason: str) -> None:
        """A stop for this reason that is about to be answered must outlive Redis's memory.

        One that kept a session which had its own end did nothing, and is to do nothing again.
        """
        is_stopped = stopped.state is State.STOPPED
        if is_stopped or not keep:
            told = stopped.reason if is_stopped else reason
            self._stops.append(_Stop(time.monotonic(), stopped.ref, keep, told))

    async def watch(self) -> NoReturn:
        """Asks again and again, until it is cancelled, which Redis it is."""
        while True:
            self._asks.clear()
            try:
                await self._ask()
                self._is_sure = not self._asks.is_set()  # what broke meanwhile is asked again
                await self._tell_again()
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_INTERVAL_S):
                    await self._asks.wait()

    async def _ask(self) -> None:
        run = await self._log.run_id()
        if self._run not in ("", run):
            logger.warning("another start of Redis: it may have forgotten its last seconds")
            now_s = time.monotonic()
            self._until_s = now_s + self._period_s
            # Once more after it: what producers have made known again by then.
            self._stops_due_s = [now_s, self._until_s]
            self._wants_rewatch = True
        self._run = run

    async def _tell_again(self) -> None:
        while self._stops_due_s and time.monotonic() >= self._stops_due_s[0]:
            await self._stop_again()
            del self._stops_due_s[0]
        if self._wants_rewatch:
            await self._log.rewatch()
            self._wants_rewatch = False

    async def _stop_again(self) -> None:
        since_s = time.monotonic() - STOP_MEMORY_S
        for stop in [one for one in self._stops if one.at_s >= since_s]:
            with suppress(EpochMismatch):
                await self._log.stop(
                    stop.ref.tenant,
                    stop.ref.conversation_id,
                    epoch=stop.ref.epoch,
                    keep=stop.keep,
                    reason=stop.reason,
                )
