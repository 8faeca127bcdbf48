"""The errors of the session log, sorted by who must act.

    ReplayError
    ├── SessionNotFound       caller: there is no such session (any more), and why
    ├── OffsetInvalid         caller: the offset is no non-negative decimal
    ├── OffsetExpired         caller: start again from the first retained offset
    ├── OffsetBeyondEnd       caller: the log is shorter than that
    ├── OffsetDoubtful        caller: what it has from there on may not be what the log has
    ├── EpochMismatch         caller: another session of the conversation is meant
    ├── SessionExpired        caller: its retention has passed
    ├── StoppedMeanwhile      caller: a stop overtook the request while it was being validated
    ├── IntentMismatch        caller: the idempotency key belongs to another request
    ├── LineFull              caller: too many wait for their turn already; retry later
    ├── LogUnavailable        operator: Redis cannot be reached or refuses; the caller may retry
    └── RedisUnfit            operator: Redis is set to evict what is still read

What a producer or a claimer is told (fenced, ended, held) is an answer, not an error: they are
races lost by design, see ``AppendStatus`` and ``ClaimStatus`` in ``replay.log_values``.
"""

from __future__ import annotations


class ReplayError(Exception):
    """Base of all; never raised itself."""


class SessionNotFound(ReplayError):
    """No session answers to this id. ``cause`` tells what became of it, where that is known."""

    def __init__(self, session_id: str, cause: str = "") -> None:
        self.session_id = session_id
        self.cause = cause
        super().__init__(session_id, cause)

    def __str__(self) -> str:
        return f"no session {self.session_id!r}" + (f": {self.cause}" if self.cause else "")


class SessionExpired(ReplayError):
    """The session named by its epoch existed, and its retention has passed."""

    def __init__(self, session_id: str, epoch: int) -> None:
        self.session_id = session_id
        self.epoch = epoch
        super().__init__(session_id, epoch)

    def __str__(self) -> str:
        return f"session {self.session_id!r} of epoch {self.epoch} has expired"


class OffsetInvalid(ReplayError):
    """``text`` is not a plain non-negative decimal."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f"'from' must be a non-negative decimal number, got {self.text[:40]!r}"


class OffsetExpired(ReplayError):
    """The offset lies below the window; ``first_offset`` is the first that is retained."""

    def __init__(self, offset: int, first_offset: int) -> None:
        self.offset = offset
        self.first_offset = first_offset
        super().__init__(offset, first_offset)

    def __str__(self) -> str:
        return f"offset {self.offset} is no longer retained, the first is {self.first_offset}"


class OffsetBeyondEnd(ReplayError):
    """The offset lies beyond the log's end; ``size`` is how long the log is."""

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size
        super().__init__(offset, size)

    def __str__(self) -> str:
        return f"offset {self.offset} is beyond the end, the log has {self.size} bytes"


class OffsetDoubtful(ReplayError):
    """Bytes below the offset may be others than the log has; the first ``size`` are the same."""

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size
        super().__init__(offset, size)

    def __str__(self) -> str:
        return f"the log has forgotten bytes before offset {self.offset}, go back to {self.size}"


class EpochMismatch(ReplayError):
    """The epoch named is not one of this conversation's; ``current`` is the one that is."""

    def __init__(self, epoch: int, current: int) -> None:
        self.epoch = epoch
        self.current = current
        super().__init__(epoch, current)

    def __str__(self) -> str:
        return f"epoch {self.epoch} is not the conversation's, the current one is {self.current}"


class StoppedMeanwhile(ReplayError):
    """A stop came while the request was being validated; it opens nothing."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(session_id)

    def __str__(self) -> str:
        return f"session {self.session_id!r}: request cancelled by a stop before it started"


class IntentMismatch(ReplayError):
    """The idempotency key ``key`` has been used for another request."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(key)

    def __str__(self) -> str:
        return f"the idempotency key {self.key!r} has been used for another request"


class LineFull(ReplayError):
    """As many requests wait for this conversation as may."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(session_id)

    def __str__(self) -> str:
        return f"too many requests wait for session {self.session_id!r}"


class LogUnavailable(ReplayError):
    """Redis cannot be reached, or refuses writes. ``operation`` names what was tried."""

    def __init__(self, operation: str) -> None:
        self.operation = operation
        super().__init__(operation)

    def __str__(self) -> str:
        return f"the session log is unavailable ({self.operation})"


class RedisUnfit(ReplayError):
    """The Redis that ``setting`` names must not be used; ``refusal`` says why and what to set."""

    def __init__(self, setting: str, refusal: str) -> None:
        self.setting = setting
        self.refusal = refusal
        super().__init__(setting, refusal)

    def __str__(self) -> str:
        return f"the Redis of {self.setting} {self.refusal}"
