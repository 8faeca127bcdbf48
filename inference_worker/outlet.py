"""One session's way into the log: all that was made of it, and how much of that the log has.

The unit is what one step made, bytes and tokens together; it is never split, so that the token
string and the text stay aligned for whoever takes the session over. All units are kept until the
end has been on disk for a while: a log that lost a reply, or its own tail, says where it ends, and
the producer goes on at ``body[end:]``.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from replay import frames
from replay.limits import CHUNK_BYTES_MAX, PROGRESS_TOKENS
from replay.log_values import Append, AppendStatus, Claim, Restored
from replay.records import Chunk, SessionRecord, State, Token

BACKLOG_BYTES_MAX = 32 * 1024 * 1024
"""What a session may hold while the log is away; beyond it, it ends as failed(storage)."""

LINGER_S = 5.0
"""How long an end must have stood before its session's body is forgotten here."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one step made: it lies at ``start``; after it there are ``token_count`` tokens."""

    start: int
    data: bytes
    token_count: int

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
    """What one claim has made. Owned by the event loop.

    ``body`` and ``tokens`` are what the log had when the session was claimed. ``is_settled``:
    the claim is on disk; a takeover that Redis forgets must not have written. ``offered`` is up to
    where readers may have been given it. ``trusted`` is set once the log shows that the session
    does not kill its worker, or nobody needs to know any more.
    """

    def __init__(
        self,
        claim: Claim,
        record: SessionRecord,
        *,
        body: Sequence[Chunk] = (),
        tokens: Sequence[Token] = (),
        is_settled: bool = True,
        on_lost: Callable[[AppendStatus], None],
    ) -> None:
        self.claim = claim
        self.record = record
        self.is_settled = is_settled
        self.on_lost = on_lost
        self.closed = asyncio.Event()
        self.trusted = asyncio.Event()
        self.closing: Closing | None = None
        self.is_overfull = False
        self.ended_s: float | None = None
        self.last_put = time.monotonic()
        self.dialect = record.dialect
        self.is_reconciled = True
        self.is_verified = True
        self.end = record.end
        self._ping_interval_s = record.ping_interval_s
        self._tokens = list(tokens)
        self._units = [Unit(chunk.start, chunk.data, len(tokens)) for chunk in body]
        if tokens and not body:
            self._units.append(Unit(self.end, b"", len(tokens)))
        self.start = body[0].start if body else self.end
        self._sent = self._claimed_units = len(self._units)
        self._tokens_sent = len(tokens)
        self.offered = self.end
        self._forgotten: set[int] = set()

    @property
    def token_count(self) -> int:
        """How many tokens the answer has, those of earlier attempts included."""
        return len(self._tokens)

    @property
    def pending(self) -> bool:
        """Whether something is to be flushed."""
        return self.is_settled and self.is_verified and self.is_behind

    @property
    def is_behind(self) -> bool:
        """Whether the log lacks something of it."""
        return not self.closed.is_set() and (
            self._sent < len(self._units) or self.closing is not None
        )

    @property
    def delivered(self) -> int | None:
        """``offered``; None before the log was looked at."""
        return self.offered if self.is_verified else None

    @property
    def wants_restoring(self) -> bool:
        """Whether the log is to be told, or asked, of it now."""
        is_whole = self._stored_end >= self.offered
        return not self.is_reconciled and (not self.is_verified or is_whole)

    @property
    def backlog_bytes(self) -> int:
        """How much the log does not have yet."""
        return self.end - self._stored_end

    @property
    def _stored_end(self) -> int:
        return self._units[self._sent].start if self._sent < len(self._units) else self.end

    @property
    def has_own_end(self) -> bool:
        """Whether it ends, or will, by its own word; it must live until the log has that."""
        return self.closing is not None or self.is_overfull

    def put(self, data: bytes, tokens: Sequence[Token] = ()) -> None:
        """Adds what one step made, unless it is overfull: then it is lost, to be given up."""
        if self.has_own_end or not (data or tokens):
            return
        self._tokens.extend(tokens)
        self._units.append(Unit(self.end, data, len(self._tokens)))
        self.end += len(data)
        if data:
            self.last_put = time.monotonic()
        if self.backlog_bytes > BACKLOG_BYTES_MAX:
            # A flush may be under way, and what it holds must stay until it is answered.
            self.is_overfull = True
            self.on_lost(AppendStatus.GONE)

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

    def give_up(self, reason: str) -> None:
        """Ends the session as failed where the log ends. Not while a flush is under way."""
        self._discard_unsent()
        self.closing, self.is_overfull = None, False
        self.fail(reason)

    def ping_due_in(self, now: float) -> float:
        """Seconds until a keep-alive comment is due; infinite where none is wanted."""
        if self._ping_interval_s < 0 or self.has_own_end:
            return float("inf")
        return self.last_put + self._ping_interval_s - now

    def next_append(self, window_bytes: int) -> tuple[Append, int]:
        """The next append, and how many units it holds.

        What was there at the claim goes together, however much it is: its tokens are known, not
        which of its bytes they show, and a worker must find both or neither.
        """
        taken, size = 0, 0
        waiting = self._units[self._sent :]
        for place, unit in enumerate(waiting, self._sent):
            if taken and size + len(unit.data) > CHUNK_BYTES_MAX and place >= self._claimed_units:
                break
            taken, size = taken + 1, size + len(unit.data)
        batch = waiting[:taken]
        last = self.closing if taken == len(waiting) else None
        start = batch[0].start if batch else self.end
        count = batch[-1].token_count if batch else self._tokens_sent
        self.offered = max(self.offered, start + size)
        append = Append(
            claim=self.claim,
            start=start,
            data=b"".join(unit.data for unit in batch),
            first_token=self._tokens_sent,
            tokens=self._tokens[self._tokens_sent : count],
            state=last.state if last else None,
            reason=last.reason if last else "",
            window_bytes=window_bytes,
        )
        return append, taken

    def stored(self, taken: int) -> None:
        """The log has appended the next ``taken`` units."""
        self._sent += taken
        if taken:
            self._tokens_sent = self._units[self._sent - 1].token_count
        if self._tokens_sent - self.record.claimed_tokens >= PROGRESS_TOKENS:
            self.trusted.set()

    def ended(self) -> None:
        """The log has its end, or has it still."""
        self.is_reconciled = self.is_verified = True
        if self.ended_s is None:
            self.ended_s = time.monotonic()
        self.shut()

    def shut(self) -> None:
        """Nothing more of it goes into the log."""
        self.closed.set()
        self.trusted.set()

    def restored(self, restored: Restored) -> bool:
        """The log lives and has so much of it: whether there is a border to go on from."""
        self.is_verified, self.ended_s = True, None
        self.closed.clear()
        self.is_reconciled = restored.whole
        return self.go_on_at(restored.end, restored.token_count)

    @property
    def has_lingered(self) -> bool:
        """Whether the end has stood for long enough."""
        return self.ended_s is not None and time.monotonic() - self.ended_s >= LINGER_S

    def estrange(self) -> None:
        """Redis may have forgotten some of it, the end as well: nothing is written unseen."""
        self.is_reconciled = self.is_verified = False

    def go_on_at(self, end: int, token_count: int) -> bool:
        """The log has so much: whether that is one of our borders, to go on from."""
        index = bisect_left(self._units, end, key=lambda unit: unit.start)
        known = self.end if index == len(self._units) else self._units[index].start
        if known != end and end in self._forgotten:
            self._move(end)
            return True
        self._sent = index
        self._tokens_sent = min(token_count, self._units[index - 1].token_count if index else 0)
        return known == end

    def first_difference(self, chunks: Sequence[Chunk]) -> int | None:
        """The offset from which on stored bytes are not ours; None where they are."""
        for chunk in chunks:
            ours = self._bytes(chunk.start, min(chunk.end, self.end))
            if not chunk.data.startswith(ours) or not ours:
                return chunk.start
            if chunk.end > self.end:
                return self.end
        return None

    def _bytes(self, start: int, end: int) -> bytes:
        """Our bytes from ``start`` to ``end``."""
        if start >= end:
            return b""
        first = bisect_right(self._units, start, key=lambda unit: unit.start) - 1
        last = bisect_left(self._units, end, key=lambda unit: unit.start)
        units = self._units[first:last]
        return b"".join(unit.data for unit in units)[start - units[0].start :][: end - start]

    def _discard_unsent(self) -> None:
        unsent = self._units[self._sent :]
        if unsent:
            self.end = unsent[0].start
            self._forgotten.update(unit.end for unit in unsent)  # a reply may have been lost
            del self._units[self._sent :]
            del self._tokens[self._tokens_sent :]

    def _move(self, end: int) -> None:
        """What is not stored yet (the closing frames) goes to where the log turned out to end."""
        unsent, self.end = self._units[self._sent :], end
        del self._units[self._sent :]
        for unit in unsent:
            self._units.append(replace(unit, start=self.end))
            self.end += len(unit.data)
