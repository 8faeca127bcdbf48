"""The session log's port: what a log can do, and what it answers.

Two adapters keep it: ``RedisLog`` and ``MemoryLog``; one contract suite runs over both
(``tests/replay/log_contract.py``). Readers do not use ``read`` alone but a ``Tailer``, which joins
history and live bytes.

Every method raises ``LogUnavailable`` where the log cannot be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from replay.blocks import Block
from replay.identity import Conversation, SessionRef
from replay.records import Chunk, End, NewSession, SessionRecord, State, Token

WINDOW_BYTES_MAX = 32 * 1024 * 1024
"""The ring: how many of a log's last bytes are retained."""

CHUNK_BYTES_MAX = 64 * 1024
"""The largest entry that a producer appends."""

PAGE_ENTRIES_MAX = 256
"""How many entries one read returns at most, so that no reply blocks Redis for long."""

PAGE_BYTES_MAX = 8 * CHUNK_BYTES_MAX
"""The same in bytes, save one entry: a reader that does not read holds a page."""

LIVE_S = 24 * 3600.0
"""How long a session's keys live without a sign of life; a guard, the reaper is far faster."""

PROGRESS_TOKENS = 16
"""An attempt that added so many tokens did not kill its worker: the suspicion is cleared."""

DEATHS_MAX = 5
"""A session that so many workers died with in all is to blame, whatever it added between."""

TOMBSTONE_MS = 600_000
"""How long a 404 can say what became of an evicted session."""

ROUTE_S = 30 * 24 * 3600.0
"""How long a conversation's last epoch is remembered."""

INTENT_S = 24 * 3600.0
"""How long an idempotency key is remembered, from the opening of its session on."""

PLACE_S = 6.0
"""How long a place in the line is kept without a sign of life."""

LINE_MAX = 1000
"""How many requests may wait for one conversation."""

NOT_BEGUN = frozenset({(State.FAILED, "queue"), (State.FAILED, "limit")})
"""Ends of sessions of which nothing was generated: their idempotency key may be used again."""


class IfBusy(StrEnum):
    """What a new POST does where a session of its conversation is live."""

    REPLACE = "replace"
    ATTACH = "attach"
    QUEUE = "queue"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Opened:
    """A session was opened. ``replaced`` is the one that it stopped, with the number of its job."""

    ref: SessionRef
    created_ms: int
    replaced: SessionRef | None = None
    replaced_dispatch: int = 0


@dataclass(frozen=True, slots=True)
class Attached:
    """Nothing was opened: the session that is meant is there already, or was."""

    conversation: Conversation
    epoch: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Nothing was opened: ``current`` is live; None where another in the line is next."""

    current: SessionRef | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to produce a session: the fencing token is attempt and nonce."""

    ref: SessionRef
    worker: str
    attempt: int
    nonce: str


class ClaimStatus(StrEnum):
    """What a claim or a renewal came to.

    MOVED: renewed, by a Redis that may have forgotten what the one before it was told. FORGOTTEN
    and GONE: Redis has lost the claim, or the whole session, unless it was erased; see ``restore``.
    """

    CLAIMED = "claimed"
    RENEWED = "renewed"
    MOVED = "moved"
    RESTORED = "restored"
    FORGOTTEN = "forgotten"
    HELD = "held"
    FENCED = "fenced"
    ENDED = "ended"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """``claim`` stands where the status is CLAIMED.

    ``doubtful``: bytes may have been delivered that the log has lost.
    """

    status: ClaimStatus
    claim: Claim | None = None
    doubtful: bool = False


class AppendStatus(StrEnum):
    """What an append came to.

    APPENDED and AT carry the log's end, and the producer goes on at ``body[end:]``. FENCED: another
    attempt owns the session; write nothing, do not retry. ENDED: it was ended from outside.
    FORGOTTEN: Redis has lost the claim. GONE: there is no record.
    """

    APPENDED = "appended"
    AT = "at"
    FENCED = "fenced"
    ENDED = "ended"
    FORGOTTEN = "forgotten"
    GONE = "gone"


class ThoughtEnd(StrEnum):
    """What an order to end a thought came to.

    DISABLED: the session was opened without ``reasoning_control``. GONE: it has ended, or is not
    there.
    """

    ORDERED = "ordered"
    DISABLED = "disabled"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Append:
    """Bytes and tokens that follow each other; with ``state`` they are the last ones.

    ``data`` may be empty (tokens that show no text yet), and ends at an SSE frame's boundary.
    """

    claim: Claim
    start: int
    data: bytes
    first_token: int = 0
    tokens: Sequence[Token] = ()
    state: State | None = None
    reason: str = ""
    window_bytes: int = WINDOW_BYTES_MAX


@dataclass(frozen=True, slots=True)
class AppendResult:
    """``end`` and ``token_count`` are what the log has, where the status is APPENDED or AT."""

    status: AppendStatus
    end: int = 0
    token_count: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restoring came to: RESTORED with what the log has, FENCED or ENDED.

    ``whole``: that is all that readers have, and Redis will be trusted again.
    """

    status: ClaimStatus
    end: int = 0
    token_count: int = 0
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Doubt:
    """Bytes from ``offset`` to ``end`` may have been delivered that the log has lost.

    ``number`` is the newest mark's: it grows, and is never given twice. A reader who was below its
    offset when it was marked has nothing to fear from it.
    """

    offset: int
    end: int
    number: int

    @classmethod
    def of(cls, record: SessionRecord) -> Doubt | None:
        """The record's doubt, if it has one."""
        return cls(record.doubt, record.doubt_end, record.doubts) if record.doubts else None

    def concerns(self, offset: int) -> bool:
        """Whether a client that comes back to ``offset`` may hold other bytes than the log."""
        return self.offset < offset <= self.end


@dataclass(frozen=True, slots=True)
class Page:
    """What one read found: chunks in order, and the end where it was reached.

    ``more`` where a limit, and not the log, has ended it.
    """

    chunks: list[Chunk | Block] = field(default_factory=list)
    end: End | None = None
    doubt: Doubt | None = None
    more: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """What a stop came to: the session as it stands now, and whether this stop ended it."""

    stopped: bool
    ref: SessionRef
    state: State
    reason: str
    size: int
    worker: str
    queue_number: int
    dispatch: int
    was_claimed: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks a session how it is; ``comment`` is appended where it waits and was silent so long.

    ``silence_ms`` -1 appends nothing.
    """

    ref: SessionRef
    silence_ms: int = -1
    comment: bytes = b""


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a silent session is. Times are milliseconds of the log's clock."""

    state: State
    end: int
    last_ms: int
    now_ms: int
    doubt: Doubt | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What the reaper sees of a conversation's current session."""

    ref: SessionRef
    state: State
    lease_until_ms: int
    now_ms: int
    created_ms: int
    queue_number: int
    dispatch: int
    owner: str
    dialect: str
    token_count: int = 0
    ended_ms: int = 0


@dataclass(frozen=True, slots=True)
class Compactable:
    """An ended session that is worth compacting, as it was seen: the extent of its log.

    ``first`` and ``end`` are offsets, ``entries`` counts the end's too.
    """

    ref: SessionRef
    first: int
    end: int
    entries: int
    ended_ms: int


@dataclass(frozen=True, slots=True)
class Requeued:
    """What giving up a claim came to: the number of the next dispatch, 0 where nothing was done.

    ``is_poison``: the session has killed its workers and is to be ended.
    """

    dispatch: int = 0
    is_poison: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """A conversation whose look is due. ``score`` is what ``unwatch`` compares."""

    conversation: Conversation
    score: str


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
