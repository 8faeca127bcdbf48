"""The sweeper: finds sessions that nobody ends any more, and sees to it that they end.

Every node and every worker runs one over the watch index. What it finds is suspicion; the record
is truth. Three things go wrong and are found here: a queued session whose arq job was lost, a
session whose producer died (it is queued again, and another worker goes on), and a plain session
whose node died. A session that has ended is looked at once more, to be compacted.

A lease is reaped by the *two looks* rule: one unbroken connection must have seen the same expired
lease twice, half a lease apart. Else every outage of Redis longer than a lease would destroy all
healthy work the moment Redis comes back (hazards 6.12). What is absent (a node's record, a worker
for a model) must likewise have been absent all along one connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from replay import frames
from replay.cluster import HEARTBEAT_TTL_S
from replay.compaction import SETTLED_S, TAKEN_S, Compactor
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log import Leases
from replay.log_values import Due, Look
from replay.outage import Outage
from replay.records import State

SWEEP_INTERVAL_S = 0.5
SUSPECT_INTERVAL_S = 0.25
"""The same while a lease is suspected: its session waits for the second look."""

SWEEP_SESSIONS_MAX = 1000
"""How many sessions one sweep looks at."""

ABSENCES_MAX = 10_000

LOOK_AGAIN_S = 2.0
"""When a healthy or waiting session is looked at next."""

WITHOUT_WORKER_S = 300.0
"""How long a queued session may wait while no worker serves its model."""

OWNER_ABSENT_S = HEARTBEAT_TTL_S / 2
"""How long a node must have had no record before its plain sessions are ended."""

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


class Absences:
    """What was looked for and not found, and since when, over one unbroken connection."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, int]] = {}

    def since_ms(self, what: str, *, found: bool, now_ms: int, connection: int) -> int:
        """For how long ``what`` has been absent; -1 where it was found."""
        if found:
            self._first.pop(what, None)
            return -1
        first = self._first.get(what)
        if len(self._first) > ABSENCES_MAX:
            self._first.clear()  # whatever is still absent is noted again
        if first is None or first[1] != connection:
            first = self._first[what] = (now_ms, connection)
        return now_ms - first[0]


class SweptLog(Leases, Protocol):
    """What is swept: the leases, and which connection was asked."""

    def connection(self) -> int:
        """A number that has changed if a connection broke since it was last read."""
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
    ``has_job`` tells whether the job of a queued session is still there; ``compactor`` gets what
    has ended.
    """

    def __init__(
        self,
        log: SweptLog,
        neighbours: Neighbours,
        *,
        lease_s: float,
        requeue: Callable[[Look, int], Awaitable[None]],
        has_job: Callable[[Look], Awaitable[bool]],
        compactor: Compactor,
    ) -> None:
        self._log = log
        self._neighbours = neighbours
        self._lease_ms = round(lease_s * 1000)
        self._requeue = requeue
        self._has_job = has_job
        self._compactor = compactor
        self._suspicions: dict[SessionRef, Suspicion] = {}
        self._nodes = Absences()
        self._workers = Absences()

    async def run(self) -> None:
        """Sweeps until it is cancelled; a log that is away is asked again."""
        outage = Outage(logger, "the sweep waits")
        while True:
            try:
                await self.sweep()
                outage.is_over()
            except LogUnavailable as error:
                outage.goes_on(error)
            await asyncio.sleep(SUSPECT_INTERVAL_S if self._suspicions else SWEEP_INTERVAL_S)

    async def sweep(self) -> None:
        """One look at everything that is due. Raises LogUnavailable."""
        try:
            await self._sweep()
        except LogUnavailable:
            # A Redis that refuses us (its disk is full) has refused renewals and heartbeats too, so
            # that nothing seen before counts, though no connection broke.
            self._suspicions.clear()
            self._nodes, self._workers = Absences(), Absences()
            raise

    async def _sweep(self) -> None:
        due = await self._log.due(SWEEP_SESSIONS_MAX)
        for one in due:
            await self._look(one)
        seen = {one.conversation for one in due}
        self._suspicions = {
            ref: first for ref, first in self._suspicions.items() if ref.conversation in seen
        }

    async def _look(self, due: Due) -> None:
        look = await self._log.look(due.conversation)
        if look is None:
            await self._log.again(due, None)
        elif look.state.is_final:
            await self._ended(due, look)
        elif look.owner and (absent_ms := await self._without_node(look)) >= 0:
            # Its score stays: the next sweep looks again.
            if absent_ms >= OWNER_ABSENT_S * 1000:
                await self._end(look, State.STOPPED, "disconnected", despite_lease=True)
        elif look.state is State.QUEUED:
            await self._queued(due, look)
        else:
            await self._produced(due, look)

    async def _ended(self, due: Due, look: Look) -> None:
        """Once settled it is compacted, by whoever moves its look; a plain one is gone too soon."""
        settled_in_s = SETTLED_S - (look.now_ms - look.ended_ms) / 1000
        if look.owner:
            await self._log.again(due, None)
        elif settled_in_s > 0:
            await self._log.again(due, settled_in_s)
        elif self._compactor.is_busy:
            await self._log.again(due, LOOK_AGAIN_S)
        elif (taken := await self._log.again(due, TAKEN_S)) is not None:
            self._compactor.take(taken)

    async def _without_node(self, look: Look) -> int:
        found = await self._neighbours.has_node(look.owner)
        return self._nodes.since_ms(
            look.owner, found=found, now_ms=look.now_ms, connection=self._log.connection()
        )

    async def _without_worker(self, look: Look) -> int:
        model = look.ref.model
        found = await self._neighbours.serves(model)
        return self._workers.since_ms(
            model, found=found, now_ms=look.now_ms, connection=self._log.connection()
        )

    async def _queued(self, due: Due, look: Look) -> None:
        if await self._without_worker(look) >= WITHOUT_WORKER_S * 1000:
            state, reason = (State.LOST, "orphan") if look.token_count else (State.FAILED, "limit")
            await self._end(look, state, reason)
            return
        if not await self._is_queued(look) and (dispatch := await self._log.redispatch(look)):
            logger.info("queued again: %s", look.ref.path())
            await self._enqueue(look, dispatch)
        await self._log.again(due, LOOK_AGAIN_S)

    async def _is_queued(self, look: Look) -> bool:
        """Whether its job is there; a queue plane that is away is asked at the next look."""
        try:
            return await self._has_job(look)
        except LogUnavailable as error:
            logger.warning("the queue is away: %s", error)
            return True

    async def _enqueue(self, look: Look, dispatch: int) -> None:
        """Puts the job in; where that fails, the next look finds that there is none."""
        try:
            await self._requeue(look, dispatch)
        except LogUnavailable as error:
            logger.warning("the queue is away: %s", error)

    async def _produced(self, due: Due, look: Look) -> None:
        first = self._suspicions.pop(look.ref, None)
        # Read after the look: a break while it was taken, or before it, is a new connection.
        connection = self._log.connection()
        dead, suspicion = is_dead(look, first, connection=connection, lease_ms=self._lease_ms)
        if dead:
            await self._take_from(due, look)
        elif suspicion is not None:
            # Its score stays: every sweeper must see an expired lease twice for itself.
            self._suspicions[look.ref] = suspicion
        else:
            await self._log.again(due, LOOK_AGAIN_S)

    async def _take_from(self, due: Due, look: Look) -> None:
        """The producer is dead: another worker goes on where the log ends."""
        requeued = await self._log.requeue(look)
        if requeued.is_poison:
            await self._end(look, State.FAILED, "poison")
        elif requeued.dispatch:
            logger.warning("its worker died, queued again: %s", look.ref.path())
            await self._enqueue(look, requeued.dispatch)
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
