"""What ``MemoryLog`` holds, and the changes that its two halves share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from replay import frames, keys
from replay.blocks import Block
from replay.identity import Conversation, SessionRef
from replay.limits import INTENT_S
from replay.records import Chunk, End, SessionRecord, State, Token
from replay.subscription import OnMessage

GRACE_MS = 120_000
LOST_BYTES = 1 << 20
"""See ``scripts/common.lua``."""


@dataclass(slots=True)
class Session:
    record: SessionRecord
    chunks: list[Chunk | Block] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    end: End | None = None
    gone_at_ms: float = float("inf")


@dataclass(frozen=True, slots=True)
class Intent:
    ref: SessionRef
    request_sha256: str
    until_ms: float


@dataclass(frozen=True, slots=True)
class Place:
    queue_number: int
    until_ms: float


@dataclass(slots=True)
class Route:
    conversation: Conversation
    epoch: int = 0
    current: int = 0
    nonce: str = ""
    erased: int = 0
    gone_until_ms: int = 0
    gone: str = ""
    sessions: dict[int, SessionRef] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)
    line: dict[str, Place] = field(default_factory=dict)


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryState:
    """Routes, sessions and who listens to them. Owned by the test, or whoever made it."""

    def __init__(self, clock_ms: Callable[[], int] = clock_ms) -> None:
        self._now = clock_ms
        self._routes: dict[tuple[str, str], Route] = {}
        self._sessions: dict[SessionRef, Session] = {}
        self._completions: dict[str, tuple[SessionRef, float]] = {}
        self._stopped: dict[tuple[str, str], int] = {}
        self._watched: dict[Conversation, int] = {}
        self._listeners: set[OnMessage] = set()
        self.run = "run 1"
        self.told: list[tuple[str, SessionRef]] = []

    def _note_intent(self, route: Route, record: SessionRecord) -> None:
        """Which session an idempotency key has opened, and for which request."""
        if record.idempotency_key:
            until_ms = self._now() + 1000 * INTENT_S
            intent = Intent(record.ref, record.request_sha256, until_ms)
            route.intents[record.idempotency_key] = intent

    def _write(self, session: Session, data: bytes, window: int | None = None) -> None:
        record = session.record
        end = record.end + len(data)
        if data:
            session.chunks.append(Chunk(end, data))
            if window is not None:
                session.chunks = [chunk for chunk in session.chunks if chunk.end >= end - window]
            self._publish(record.ref, b"c%d\n%b" % (record.end, data))
        session.record = replace(record, end=end, last_ms=self._now())

    def _finish(self, session: Session, state: State, reason: str) -> None:
        now, record = self._now(), session.record
        session.end = End(state, reason, record.end)
        session.record = replace(
            record,
            state=state,
            reason=reason,
            ended_ms=now,
            expires_ms=now + record.retention_ms,
            lease_until_ms=0,
        )
        session.gone_at_ms = now + record.retention_ms + GRACE_MS
        text = frames.compact({"state": str(state), "reason": reason, "size": record.end})
        self._publish(record.ref, b"e" + text.encode())
        self._tell_news(record.ref)

    def _end_outside(self, session: Session, state: State, reason: str, closing: bytes) -> None:
        self._mark_doubt(session, session.record.end)
        self._write(session, closing)
        self._finish(session, state, reason)
        if session.record.worker:
            self.told.append((session.record.worker, session.record.ref))

    def _find(self, ref: SessionRef | None) -> Session | None:
        session = self._sessions.get(ref) if ref else None
        if session is not None and session.gone_at_ms <= self._now():
            del self._sessions[session.record.ref]
            return None
        return session

    def _publish(self, ref: SessionRef, payload: bytes) -> None:
        for listener in list(self._listeners):
            listener(keys.channel(ref), payload)

    def _tell_news(self, ref: SessionRef) -> None:
        for listener in list(self._listeners):
            listener(keys.news(ref.conversation), b"")

    def _mark_doubt(self, session: Session, at: int) -> bool:
        record = session.record
        if record.run_id == self.run:
            return False
        mark = max(record.doubts + 1, self._now())
        session.record = replace(
            record,
            run_id=self.run,
            doubt=min(at, record.doubt) if record.doubts else at,
            doubt_end=max(record.doubt_end, at + LOST_BYTES),
            doubts=mark,
        )
        self._publish(record.ref, b"d%d %d" % (at, mark))
        return True
