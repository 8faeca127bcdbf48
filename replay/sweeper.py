"""The sweeper: finds sessions that nobody ends any more, and sees to it that they end.

Every node and every worker runs one over the watch index. What it finds is suspicion; the record
is truth. Three things go wrong and are found here: a queued session whose arq job was lost, a
session whose producer died, and a plain session whose node died.

A lease is reaped by the *two looks* rule: one unbroken connection must have seen the same expired
lease twice, half a lease apart. Else every outage of Redis longer than a lease would destroy all
healthy work the moment Redis comes back (hazards 6.12).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from replay import frames
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log import Due, Leases, Look
from replay.records import State

SWEEP_INTERVAL_S = 1.0
SWEEP_SESSIONS_MAX = 1000
"""How many sessions one sweep looks at."""

LOOK_AGAIN_S = 2.0
"""When a healthy or waiting session is looked at next."""

WITHOUT_WORKER_S = 300.0
"""How long a queued session may wait while no worker serves its model."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """An expired lease as it was first seen."""

    lease_until_ms: int
    seen_ms: int
    connection: int


def is_dead(
    look: Look, first: Suspicion | None, *, connection: int, lease_ms: int
) -> tuple[bool, Suspicion | None]:
    """The two-looks rule. Pure.

    Returns whether the lease may be reaped, and what is to be remembered for the next look (None:
    nothing is suspicious). ``connection`` changes whenever the connection to Redis was a new one.
    """
    if look.lease_until_ms == 0 or look.lease_until_ms > look.now_ms:
        return False, None
    fresh = Suspicion(look.lease_until_ms, look.now_ms, connection)
    if first is None or (first.lease_until_ms, first.connection) != (
        look.lease_until_ms,
        connection,
    ):
        return False, fresh
    return look.now_ms - first.seen_ms >= lease_ms // 2, first


class SweptLog(Leases, Protocol):
    """What is swept: the leases, and which connection was asked."""

    async def connection(self) -> int:
        """The number of the connection that the next calls use; another one after a break."""
        ...


class Neighbours(Protocol):
    """What the sweeper asks about the cluster; ``replay.cluster.Directory`` answers."""

    async def has_node(self, node_id: str) -> bool:
        """Whether that node lives."""
        ...

    async def serves(self, model: str) -> bool:
        """Whether any living worker has that model."""
        ...


class Sweeper:
    """One process's sweeper. Owned by the task that awaits ``run``.

    ``requeue`` puts a session into its model's queue again, under the dispatch number given;
    ``has_job`` tells whether the job of a queued session is still there.
    """

    def __init__(
        self,
        log: SweptLog,
        neighbours: Neighbours,
        *,
        lease_s: float,
        requeue: Callable[[Look, int], Awaitable[None]],
        has_job: Callable[[Look], Awaitable[bool]],
    ) -> None:
        self._log = log
        self._neighbours = neighbours
        self._lease_ms = round(lease_s * 1000)
        self._requeue = requeue
        self._has_job = has_job
        self._suspicions: dict[SessionRef, Suspicion] = {}

    async def run(self) -> None:
        """Sweeps until it is cancelled; a log that is away is asked again."""
        away = False
        while True:
            try:
                await self.sweep()
                away = False
            except LogUnavailable as error:
                if not away:
                    logger.warning("the sweep waits: %s", error)
                away = True
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> None:
        """One look at everything that is due. Raises LogUnavailable."""
        connection = await self._log.connection()
        due = await self._log.due(SWEEP_SESSIONS_MAX)
        for one in due:
            await self._look(one, connection)
        seen = {one.conversation for one in due}
        self._suspicions = {
            ref: first for ref, first in self._suspicions.items() if ref.conversation in seen
        }

    async def _look(self, due: Due, connection: int) -> None:
        look = await self._log.look(due.conversation)
        if look is None or look.state.is_final:
            await self._log.again(due, None)
        elif look.owner and not await self._neighbours.has_node(look.owner):
            await self._end(look, State.STOPPED, "disconnected", despite_lease=True)
        elif look.state is State.QUEUED:
            await self._queued(due, look)
        else:
            await self._produced(due, look, connection)

    async def _queued(self, due: Due, look: Look) -> None:
        waited_s = (look.now_ms - look.created_ms) / 1000
        if waited_s > WITHOUT_WORKER_S and not await self._neighbours.serves(look.ref.model):
            await self._end(look, State.FAILED, "limit")
            return
        if not await self._has_job(look) and (dispatch := await self._log.redispatch(look)):
            logger.info("queued again: %s", look.ref.path())
            await self._requeue(look, dispatch)
        await self._log.again(due, LOOK_AGAIN_S)

    async def _produced(self, due: Due, look: Look, connection: int) -> None:
        first = self._suspicions.pop(look.ref, None)
        dead, suspicion = is_dead(look, first, connection=connection, lease_ms=self._lease_ms)
        if dead:
            await self._end(look, State.LOST, "orphan")
        elif suspicion is not None:
            # Its score stays: every sweeper must see an expired lease twice for itself.
            self._suspicions[look.ref] = suspicion
        else:
            await self._log.again(due, LOOK_AGAIN_S)

    async def _end(
        self, look: Look, state: State, reason: str, *, despite_lease: bool = False
    ) -> None:
        closing = frames.closing(look.dialect, state, reason)
        ended = await self._log.reap(
            look, state=state, reason=reason, closing=closing, despite_lease=despite_lease
        )
        if ended:
            logger.warning("reaped as %s(%s): %s", state, reason, look.ref.path())
