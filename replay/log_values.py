"""What a session log is told, and what it answers: values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from replay.blocks import Block
from replay.identity import Conversation, SessionRef
from replay.limits import WINDOW_BYTES_MAX
from replay.records import Chunk, End, SessionRecord, State, Token

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
