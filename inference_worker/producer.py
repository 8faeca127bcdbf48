"""The producer: rendered bytes and their tokens, from the engine's steps to the log.

All sessions of one engine step go to the log in one round trip, and one flush is in flight at a
time: a second one might overtake it. What comes meanwhile waits and goes together. The unit is
what one step made, bytes and tokens together; it is never split, so that the token string and the
text stay aligned for whoever takes the session over.

An outlet keeps all its units until its session has ended: the log may say *at an earlier offset*
(a lost reply, a lost tail), and the producer then goes on at ``body[end:]``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from redis.exceptions import OutOfMemoryError

from replay import frames
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log import (
    CHUNK_BYTES_MAX,
    Append,
    AppendResult,
    AppendStatus,
    Claim,
    SessionLog,
)
from replay.records import Reason, SessionRecord, State, Token

BACKLOG_BYTES_MAX = 32 * 1024 * 1024
"""What a session may hold while the log is away; beyond it, it ends as failed(storage)."""

RETRY_MIN_S = 0.02
RETRY_MAX_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unit:
    """What one step made: it lies at ``start`` and brings tokens from ``first_token`` on."""

    start: int
    data: bytes
    first_token: int
    tokens: Sequence[Token]

    @property
    def end(self) -> int:
        """The offset at which its bytes end."""
        return self.start + len(self.data)


@dataclass(frozen=True, slots=True)
class Closing:
    """How the session ends when all its units are stored."""

    state: State
    reason: str


class Outlet:
    """One session's way into the log. Owned by the event loop."""

    def __init__(
        self, claim: Claim, record: SessionRecord, *, on_lost: Callable[[AppendStatus], None]
    ) -> None:
        self.claim = claim
        self.record = record
        self.is_settled = claim.attempt == 1
        """Whether the claim is on disk. A takeover that Redis forgets must not have written."""
        self.end = record.end
        self.token_count = record.token_count
        self.on_lost = on_lost
        self.closed = asyncio.Event()
        self.closing: Closing | None = None
        self.last_put = time.monotonic()
        self.dialect = record.dialect
        self._ping_interval_s = record.ping_interval_s
        self._units: list[Unit] = []
        self._sent = 0
        self._forgotten: set[int] = set()

    @property
    def pending(self) -> bool:
        """Whether something is to be flushed."""
        return self.is_settled and self.is_behind

    @property
    def is_behind(self) -> bool:
        """Whether the log lacks something of it."""
        return not self.closed.is_set() and (
            self._sent < len(self._units) or self.closing is not None
        )

    @property
    def backlog_bytes(self) -> int:
        """How much the log does not have yet."""
        return self.end - self._units[self._sent].start if self._sent < len(self._units) else 0

    def put(self, data: bytes, tokens: Sequence[Token] = ()) -> None:
        """Adds what one step made."""
        if self.closing is not None or not (data or tokens):
            return
        self._units.append(Unit(self.end, data, self.token_count, tokens))
        self.end += len(data)
        self.token_count += len(tokens)
        if data:
            self.last_put = time.monotonic()

    def close(self, data: bytes, tokens: Sequence[Token], state: State, reason: str) -> None:
        """Adds the last of it; the first close counts."""
        if self.closing is None:
            self.put(data, tokens)
            self.closing = Closing(state, reason)

    def fail(self, reason: str, detail: str = "") -> None:
        """Ends the session as failed, with its dialect's error event."""
        self.close(
            frames.closing(self.dialect, State.FAILED, reason, detail), (), State.FAILED, reason
        )

    def ping_due_in(self, now: float) -> float:
        """Seconds until a keep-alive comment is due; infinite where none is wanted."""
        if self._ping_interval_s < 0 or self.closing is not None:
            return float("inf")
        return self.last_put + self._ping_interval_s - now

    def next_append(self, window_bytes: int) -> tuple[Append, int]:
        """The next append, and how many units it holds."""
        taken, size = 0, 0
        waiting = self._units[self._sent :]
        for unit in waiting:
            if taken and size + len(unit.data) > CHUNK_BYTES_MAX:
                break
            taken, size = taken + 1, size + len(unit.data)
        batch = waiting[:taken]
        last = self.closing if taken == len(waiting) else None
        append = Append(
            claim=self.claim,
            start=batch[0].start if batch else self.end,
            data=b"".join(unit.data for unit in batch),
            first_token=batch[0].first_token if batch else self.token_count,
            tokens=[token for unit in batch for token in unit.tokens],
            state=last.state if last else None,
            reason=last.reason if last else "",
            window_bytes=window_bytes,
        )
        return append, taken

    def stored(self, taken: int) -> None:
        """The log has appended the next ``taken`` units."""
        self._sent += taken

    def give_up(self, reason: str) -> None:
        """Ends the session as failed where the log ends, whatever was still to come."""
        self._discard_unsent()
        self.closing = None
        self.fail(reason)

    def _discard_unsent(self) -> None:
        unsent = self._units[self._sent :]
        if unsent:
            self.end, self.token_count = unsent[0].start, unsent[0].first_token
            self._forgotten.update(unit.end for unit in unsent)  # a reply may have been lost
            del self._units[self._sent :]

    def go_on_at(self, end: int) -> bool:
        """The log's end is ``end``: whether that is one of our borders, to go on from."""
        index = bisect_left(self._units, end, key=lambda unit: unit.start)
        known = self.end if index == len(self._units) else self._units[index].start
        if known != end and end in self._forgotten:
            self._move(end)
            return True
        self._sent = index
        return known == end

    def _move(self, end: int) -> None:
        """What is not stored yet (the closing frames) goes to where the log turned out to end."""
        unsent, self.end = self._units[self._sent :], end
        del self._units[self._sent :]
        for unit in unsent:
            self._units.append(replace(unit, start=self.end))
            self.end += len(unit.data)


class Producer:
    """The outlets of one worker, and the one flush at a time. Owned by the task in ``run``."""

    def __init__(self, log: SessionLog, *, window_bytes: int) -> None:
        self._log = log
        self._window_bytes = window_bytes
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
        outlet.closed.set()

    def claims(self) -> list[Claim]:
        """The claims of all outlets: what is not stored yet is still to be protected."""
        return [outlet.claim for outlet in self._outlets]

    def outlets(self) -> list[Outlet]:
        """All that are open."""
        return list(self._outlets)

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

    async def flush(self) -> None:
        """One round trip with what every outlet has. Raises LogUnavailable."""
        self._check_backlog()
        ready = [outlet for outlet in self._outlets if outlet.pending]
        batches = [outlet.next_append(self._window_bytes) for outlet in ready]
        results = await self._log.append([append for append, _ in batches])
        failed: LogUnavailable | None = None
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
                self.drop(outlet)
            elif outlet.pending:
                self._dirty.set()
        elif result.status is AppendStatus.AT and outlet.go_on_at(result.end):
            self._dirty.set()
        else:
            self.drop(outlet)
            outlet.on_lost(result.status)

    def _refused(self, outlet: Outlet, append: Append, error: Exception) -> LogUnavailable | None:
        """An append that Redis refused: full memory ends the session, anything else is retried."""
        if not isinstance(error, LogUnavailable):
            raise error
        # An end may be written when memory is full; what comes before it, even of an answer that
        # is complete here, may not.
        if isinstance(error.__cause__, OutOfMemoryError) and append.state is None:
            self._give_up(outlet)
            return None
        return error

    def _check_backlog(self) -> None:
        for outlet in self.outlets():
            if outlet.backlog_bytes > BACKLOG_BYTES_MAX and outlet.closing is None:
                self._give_up(outlet)

    def _give_up(self, outlet: Outlet) -> None:
        outlet.give_up(Reason.STORAGE)
        outlet.on_lost(AppendStatus.GONE)
        self._dirty.set()

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
