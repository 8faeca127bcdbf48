"""The session log's port: what a log can do, and what it answers.

Two adapters keep it: ``RedisLog`` and ``MemoryLog``; one contract suite runs over both
(``tests/replay/log_contract.py``). Readers do not use ``read`` alone but a ``Tailer``, which joins
history and live bytes.

Every method raises ``LogUnavailable`` where the log cannot be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from replay.blocks import Block
from replay.identity import Conversation, SessionRef
from replay.limits import PAGE_BYTES_MAX
from replay.log_values import (
    Append,
    AppendResult,
    Ask,
    Attached,
    Busy,
    Claim,
    ClaimResult,
    ClaimStatus,
    Compactable,
    Due,
    IfBusy,
    Look,
    Opened,
    Page,
    Pulse,
    Requeued,
    Restored,
    Stopped,
    ThoughtEnd,
)
from replay.records import NewSession, SessionRecord, State


class SessionLog(Protocol):
    """The durable record of sessions: opened once, appended by one producer, ended exactly once."""

    async def open(
        self,
        new: NewSession,
        *,
        arrived_ms: float,
        nonce: str,
        if_busy: IfBusy = IfBusy.REPLACE,
    ) -> Opened | Attached | Busy:
        """Gives the session its epoch; what becomes of a live one before it, ``if_busy`` says.

        An idempotency key that has opened a session comes first: it opens no other, whatever is
        live. A stop since ``arrived_ms``, when the request came by ``clock_ms``, refuses it. The
        same ``nonce`` again is the same answer. Under QUEUE a Busy request has a place in the line,
        for PLACE_S from each call, in the order of ``new.queue_number``.

        Raises IntentMismatch, StoppedMeanwhile, LineFull.
        """
        ...

    async def recall(
        self, conversations: Sequence[Conversation], *, key: str, request_sha256: str
    ) -> Attached | None:
        """The session that this key has opened for this very request in one of the conversations.

        They must be of one tenant and one base.
        """
        ...

    async def leave_line(self, conversation: Conversation, nonce: str) -> None:
        """Gives up a place in the line; nothing where there is none."""
        ...

    async def clock_ms(self, conversation: Conversation) -> float:
        """The clock by which the times of this conversation are written."""
        ...

    async def append(self, appends: Sequence[Append]) -> list[AppendResult | Exception]:
        """Appends to several sessions in one round trip; each has a result of its own."""
        ...

    async def read(self, ref: SessionRef, offset: int, *, bytes_max: int = PAGE_BYTES_MAX) -> Page:
        """Stored entries that end past ``offset``, at most a page; the first is cut to it.

        Raises OffsetExpired where the window begins later. A missing log reads as an empty page.
        """
        ...

    async def tokens(self, ref: SessionRef) -> bytes:
        """The token string of a session, see ``records.unpack_tokens``."""
        ...

    async def record(self, ref: SessionRef) -> SessionRecord | None:
        """The whole session record, or None."""
        ...

    async def resolve(self, tenant: str, name: str, epoch: int | None) -> SessionRecord:
        """The session that a client means by ``name`` and, where given, ``epoch``.

        Raises SessionNotFound, SessionExpired, EpochMismatch. The record's request and prompt may
        be left out.
        """
        ...

    async def lookup(self, tenant: str, names: Sequence[str]) -> list[SessionRecord]:
        """The current sessions with exactly these names or beginning with ``<name>::``."""
        ...

    async def stop(
        self, tenant: str, name: str, *, epoch: int | None, keep: bool, reason: str
    ) -> Stopped | None:
        """Ends the current session named so; without ``keep`` evicts all that is retained.

        Idempotent; None where there is nothing. Raises EpochMismatch where ``epoch`` is another.
        """
        ...

    async def end_thought(self, ref: SessionRef) -> ThoughtEnd:
        """Orders that the session think no longer: its producer is told, and each that follows.

        Idempotent. It ends a thought that has not begun yet as soon as it does.
        """
        ...

    async def name_completion(self, completion_id: str, ref: SessionRef, ttl_s: float) -> None:
        """Lets the session be found by the id of its answer, for so long."""
        ...

    async def completion(self, completion_id: str) -> SessionRef | None:
        """The session whose answer has this id, of any tenant; it may have ended."""
        ...

    async def erased(self, tenant: str, name: str) -> None:
        """Returns once what ``stop`` has evicted under this name will stay so, whatever crashes.

        That is some 1.3 s where the log's disk is synced once a second. Raises LogUnavailable where
        the disk is too slow: the eviction stands, but a crash may forget it.
        """
        ...


class Leases(Protocol):
    """Who produces a session, until when; and the watch over sessions that nobody ends."""

    async def claim(
        self,
        ref: SessionRef,
        *,
        worker: str,
        nonce: str,
        lease_s: float,
    ) -> ClaimResult:
        """Makes the worker the producer where no lease stands. Idempotent by ``nonce``."""
        ...

    async def enter(self, claim: Claim) -> ClaimStatus:
        """Notes that a session that a worker died with reaches the engine again.

        Before that, its worker's death is not counted against it. RENEWED where it may.
        """
        ...

    async def renew(self, claims: Sequence[Claim], lease_s: float) -> list[ClaimStatus | Exception]:
        """Renews the leases of one worker in one round trip."""
        ...

    async def watch(self, conversation: Conversation, delay_s: float) -> None:
        """Announces a session: before it is opened, so that nobody can lose it.

        A look that is due earlier stays so; whoever has seen it before takes nothing out by it.
        """
        ...

    async def rewatch(self) -> None:
        """Announces every session that has not ended.

        A Redis Cluster may lose a shard of the index and keep the sessions that it named.
        """
        ...

    async def due(self, most: int) -> list[Due]:
        """The conversations whose look is due, over all shards."""
        ...

    async def look(self, conversation: Conversation) -> Look | None:
        """The conversation's current session as the reaper sees it, or None."""
        ...

    async def again(self, due: Due, delay_s: float | None) -> Due | None:
        """Moves a look to later, or takes it out (None), unless it was announced anew.

        Returns the look as it stands now, or None: somebody else was faster, or it is out.
        """
        ...

    async def reap(
        self, look: Look, *, state: State, reason: str, closing: bytes, despite_lease: bool = False
    ) -> bool:
        """Ends the session if its lease is still the expired one that was seen.

        ``despite_lease``: whoever produces it; for a session that nobody wants any more.
        """
        ...

    async def requeue(self, look: Look) -> Requeued:
        """Makes a session claimable again whose lease is still the expired one that was seen."""
        ...

    async def hand_over(self, claim: Claim) -> Requeued:
        """Gives up a claim, so that another worker goes on; what was produced must be stored."""
        ...

    async def settle(
        self, claims: Sequence[Claim], lease_s: float
    ) -> list[ClaimStatus | Exception]:
        """Renews the claims, and returns once that is on disk, as far as the log keeps a disk.

        A takeover that Redis forgets would let two producers write: nothing is appended before.
        """
        ...

    async def restore(
        self,
        claim: Claim,
        record: SessionRecord,
        *,
        start: int,
        delivered: int | None,
        lease_s: float,
    ) -> Restored:
        """Makes a claim, or its whole session, known again that Redis has forgotten.

        The producer has the session's bytes from ``start`` on and appends what is missing; readers
        may have been given them up to ``delivered`` (None: it has not looked yet whether the log
        has the same). ``record`` is what it was told when it claimed. A session that was erased or
        followed by another meanwhile is ENDED.
        """
        ...

    async def diverge(self, claim: Claim, *, offset: int, closing: bytes) -> None:
        """Ends the session as lost(log): from ``offset`` on readers were given other bytes."""
        ...

    async def redispatch(self, look: Look) -> int:
        """Counts another dispatch of a queued session; 0 where another was faster."""
        ...


class Archive(Protocol):
    """Logs that have ended, and how they are made small."""

    async def compactable(
        self, conversation: Conversation, *, settled_s: float, bytes_min: int
    ) -> list[Compactable]:
        """The conversation's sessions that ended so long ago, are as large and not compacted."""
        ...

    async def read(self, ref: SessionRef, offset: int) -> Page:
        """See ``SessionLog``."""
        ...

    async def compact(self, seen: Compactable, blocks: Sequence[Block]) -> bool:
        """Puts blocks in the place of a log's entries, in one step, and drops tokens and prompt.

        False, and nothing is done, where the log is not as it was seen: evicted, gone, compacted.
        """
        ...


class Feed(Protocol):
    """Live bytes: what a hub needs beside ``SessionLog.read``."""

    async def pulse(self, ref: SessionRef, *, silence_ms: int, comment: bytes) -> Pulse | None:
        """How the session is, see ``Ask``; None where it is gone."""
        ...

    async def pulses(self, asks: Sequence[Ask]) -> list[Pulse | Exception | None]:
        """How several sessions are, in one round trip."""
        ...
