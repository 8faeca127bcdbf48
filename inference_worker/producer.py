"""The producer: rendered bytes and their tokens, from the engine's steps to the log.

All sessions of one engine step go to the log in one round trip, and one flush is in flight at a
time: a second one might overtake it. What comes meanwhile waits and goes together.

A Redis that comes back may have forgotten claims, tails, ends and whole sessions. Who hears of that
(a renewal under another Redis, an append that finds nothing) is *estranged* and reconciles before
anything else is written: the claim is made known again, what is stored is compared with what was
made, and what is missing is appended at the same offsets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Protocol

from redis.exceptions import OutOfMemoryError

from inference_worker.outlet import Outlet
from replay import frames
from replay.blocks import Block
from replay.errors import LogUnavailable, OffsetExpired
from replay.identity import SessionRef
from replay.log import Leases, SessionLog
from replay.log_values import Append, AppendResult, AppendStatus, Claim, ClaimStatus
from replay.records import Chunk, Reason, State

RETRY_MIN_S = 0.02
RETRY_MAX_S = 1.0
WATCH_DELAY_S = 2.0
"""When a restored session is looked at first."""

logger = logging.getLogger(__name__)


class ProducedLog(SessionLog, Leases, Protocol):
    """What a producer needs of the log."""


async def stored_chunks(log: SessionLog, ref: SessionRef, start: int) -> AsyncIterator[Chunk]:
    """What the log has from ``start`` on, or from its first retained offset.

    Raises LogUnavailable.
    """
    offset = start
    while True:
        try:
            page = await log.read(ref, offset)
        except OffsetExpired as expired:
            offset = expired.first_offset
            continue
        for chunk in page.chunks:
            yield chunk.chunk() if isinstance(chunk, Block) else chunk
        if not page.chunks or page.end is not None:
            return
        offset = page.chunks[-1].end


class Producer:
    """The outlets of one worker, and the one flush at a time. Owned by the task in ``run``."""

    def __init__(self, log: ProducedLog, *, window_bytes: int, lease_s: float) -> None:
        self._log = log
        self._window_bytes = window_bytes
        self._lease_s = lease_s
        self._outlets: dict[Outlet, None] = {}  # in the order of their claims
        self._dirty = asyncio.Event()
        self._was_flushed = asyncio.Event()

    def add(self, outlet: Outlet) -> None:
        """Takes an outlet until it is closed."""
        self._outlets[outlet] = None
        self._dirty.set()

    def drop(self, outlet: Outlet) -> None:
        """Forgets an outlet whose session is no longer ours."""
        self._outlets.pop(outlet, None)
        outlet.shut()

    def claims(self) -> list[Claim]:
        """The claims of all outlets: what is not stored yet is still to be protected."""
        return [outlet.claim for outlet in self._outlets]

    def renewed(self, claim: Claim, status: ClaimStatus) -> bool:
        """What the renewal of a claim came to: whether the session is still ours."""
        return all(self._renewed(outlet, status) for outlet in self._of(claim))

    def _renewed(self, outlet: Outlet, status: ClaimStatus) -> bool:
        has_ended = outlet.ended_s is not None
        if status is ClaimStatus.RENEWED and not has_ended:
            return True
        if status in (ClaimStatus.FENCED, ClaimStatus.ENDED):
            if has_ended and (outlet.has_lingered or status is ClaimStatus.FENCED):
                self.drop(outlet)
            return has_ended
        outlet.estrange()
        self.wake()
        return True

    def outlets(self) -> list[Outlet]:
        """All whose session has not ended."""
        return [outlet for outlet in self._outlets if outlet.ended_s is None]

    def has(self, ref: SessionRef) -> bool:
        """Whether there is an outlet of this session, by whatever claim."""
        return any(outlet.claim.ref == ref for outlet in self._outlets)

    def settle(self, claim: Claim) -> None:
        """The claim is on disk: from now on it may write."""
        for outlet in self._of(claim):
            outlet.is_settled = True
        self.wake()

    def drop_claim(self, claim: Claim) -> None:
        """Forgets the outlet of a claim that is no longer ours."""
        for outlet in self._of(claim):
            self.drop(outlet)

    def _of(self, claim: Claim) -> list[Outlet]:
        return [outlet for outlet in self._outlets if outlet.claim == claim]

    def wake(self) -> None:
        """Something was put: flush as soon as the flush before is over."""
        self._dirty.set()

    async def flushed(self) -> None:
        """Returns once the log has everything that was put."""
        while any(outlet.is_behind for outlet in self._outlets):
            self._was_flushed.clear()
            self.wake()
            await self._was_flushed.wait()

    async def run(self) -> None:
        """Flushes until it is cancelled."""
        pause_s = RETRY_MIN_S
        while True:
            await self._wait()
            try:
                await self.flush()
                pause_s = RETRY_MIN_S
            except LogUnavailable as error:
                if pause_s == RETRY_MIN_S:
                    logger.warning("the flush waits: %s", error)
                self._dirty.set()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _reconcile(self) -> LogUnavailable | None:
        """Sees to every outlet that Redis may have forgotten; why one of them has to wait."""
        failed: LogUnavailable | None = None
        for outlet in list(self._outlets):
            if outlet.wants_restoring:
                try:
                    await self._reconcile_one(outlet)
                except LogUnavailable as error:  # of a Redis Cluster one master may be away
                    failed = error
        return failed

    async def _reconcile_one(self, outlet: Outlet) -> None:
        ref = outlet.claim.ref
        await self._log.watch(ref.conversation, WATCH_DELAY_S)
        restored = await self._log.restore(
            outlet.claim,
            outlet.record,
            start=outlet.start,
            delivered=outlet.delivered,
            lease_s=self._lease_s,
        )
        if restored.status is ClaimStatus.ENDED and outlet.ended_s is not None:
            self._ended(outlet)
        elif restored.status is not ClaimStatus.RESTORED:
            self._lost(outlet, AppendStatus(restored.status))
        elif not outlet.is_verified and (offset := await self._difference(outlet)) is not None:
            await self._diverged(outlet, offset)
        elif outlet.restored(restored):
            self.wake()
        else:
            self._lost(outlet, AppendStatus.AT)

    def _ended(self, outlet: Outlet) -> None:
        if outlet.has_lingered:
            self.drop(outlet)
        else:
            outlet.ended()

    async def _diverged(self, outlet: Outlet, offset: int) -> None:
        if offset >= outlet.offered:
            self._lost(outlet, AppendStatus.AT)  # nobody was given ours
            return
        logger.error("other bytes from offset %d on: %s", offset, outlet.claim.ref.path())
        closing = frames.closing(outlet.dialect, State.LOST, Reason.LOG)
        await self._log.diverge(outlet.claim, offset=offset, closing=closing)
        self._lost(outlet, AppendStatus.ENDED)

    async def _difference(self, outlet: Outlet) -> int | None:
        async for chunk in stored_chunks(self._log, outlet.claim.ref, outlet.start):
            if (offset := outlet.first_difference([chunk])) is not None:
                return offset
        return None

    async def flush(self) -> None:
        """Reconciles, then one round trip with what every outlet has. Raises LogUnavailable."""
        waits = await self._reconcile()
        for outlet in self._outlets:
            if outlet.is_overfull:
                outlet.give_up(Reason.STORAGE)
        ready = [outlet for outlet in self._outlets if outlet.pending]
        batches = [outlet.next_append(self._window_bytes) for outlet in ready]
        results = await self._log.append([append for append, _ in batches])
        failed = waits
        for outlet, (append, taken), result in zip(ready, batches, results, strict=True):
            if isinstance(result, Exception):
                failed = self._refused(outlet, append, result) or failed
            else:
                self._answered(outlet, append, taken, result)
        self._was_flushed.set()
        if failed is not None:
            raise failed

    def _answered(self, outlet: Outlet, append: Append, taken: int, result: AppendResult) -> None:
        if result.status is AppendStatus.APPENDED:
            outlet.stored(taken)
            if append.state is not None:
                outlet.ended()
            if outlet.pending or outlet.wants_restoring:
                self.wake()
        elif result.status in (AppendStatus.FORGOTTEN, AppendStatus.GONE):
            outlet.estrange()
            self.wake()
        elif result.status is AppendStatus.AT and outlet.go_on_at(result.end, result.token_count):
            self.wake()
        else:
            self._lost(outlet, result.status)

    def _lost(self, outlet: Outlet, status: AppendStatus) -> None:
        self.drop(outlet)
        outlet.on_lost(status)

    def _refused(self, outlet: Outlet, append: Append, error: Exception) -> LogUnavailable | None:
        """An append that Redis refused: full memory ends the session, anything else is retried."""
        if not isinstance(error, LogUnavailable):
            raise error
        # An end may be written when memory is full; what comes before it, even of an answer that
        # is complete here, may not.
        if isinstance(error.__cause__, OutOfMemoryError) and append.state is None:
            outlet.give_up(Reason.STORAGE)
            outlet.on_lost(AppendStatus.GONE)
            self.wake()
            return None
        return error

    async def _wait(self) -> None:
        """Until something was put, or a keep-alive comment is due (which is then put)."""
        now = time.monotonic()
        due_in = min((outlet.ping_due_in(now) for outlet in self._outlets), default=float("inf"))
        try:
            async with asyncio.timeout(due_in if due_in != float("inf") else None):
                await self._dirty.wait()
        except TimeoutError:
            now = time.monotonic()
            for outlet in self._outlets:
                if outlet.ping_due_in(now) <= 0:
                    outlet.put(frames.PING)
        self._dirty.clear()
