"""The session log in memory: the same contract as ``RedisLog``, for tests and for reading.

It says in plain Python what the scripts say in Lua. Its clock is an argument, so that a test may
let time pass.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from replay import frames, keys
from replay.errors import (
    EpochMismatch,
    OffsetExpired,
    SessionExpired,
    SessionNotFound,
    StoppedMeanwhile,
)
from replay.identity import SEPARATOR, Conversation, SessionRef, candidates
from replay.log import (
    ATTEMPTS_MAX,
    PAGE_ENTRIES_MAX,
    PROGRESS_TOKENS,
    Append,
    AppendResult,
    AppendStatus,
    Ask,
    Claim,
    ClaimResult,
    ClaimStatus,
    Due,
    Look,
    Opened,
    Page,
    Pulse,
    Requeued,
    Stopped,
)
from replay.records import (
    Chunk,
    End,
    NewSession,
    SessionRecord,
    State,
    Token,
    pack_tokens,
)
from replay.subscription import OnMessage, OnReset

GRACE_MS = 120_000
EVICTED_MS = 30_000
TOMBSTONE_MS = 600_000
STOPPED_MS = 10_000


@dataclass(slots=True)
class _Session:
    record: SessionRecord
    chunks: list[Chunk] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    end: End | None = None
    gone_at_ms: float = float("inf")


@dataclass(slots=True)
class _Route:
    conversation: Conversation
    epoch: int = 0
    current: int = 0
    nonce: str = ""
    erased: int = 0
    gone_until_ms: int = 0
    gone: str = ""
    sessions: dict[int, SessionRef] = field(default_factory=dict)


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryLog:
    """``SessionLog``, ``Leases`` and ``Feed`` in one process's memory."""

    def __init__(self, clock_ms: Callable[[], int] = _clock_ms) -> None:
        self._now = clock_ms
        self._routes: dict[tuple[str, str], _Route] = {}
        self._sessions: dict[SessionRef, _Session] = {}
        self._stopped: dict[tuple[str, str], int] = {}
        self._watched: dict[Conversation, int] = {}
        self._listeners: set[OnMessage] = set()
        self.told: list[tuple[str, SessionRef]] = []

    async def open(self, new: NewSession, *, validated_ms: int, nonce: str) -> Opened:
        now = self._now()
        tenant, conversation = new.conversation.tenant, new.conversation
        route = self._routes.setdefault((tenant, conversation.id), _Route(conversation))
        if route.nonce == nonce:
            known = self._sessions[route.sessions[route.epoch]].record
            return Opened(known.ref, known.created_ms)
        for name in (conversation.id, new.name, conversation.id + SEPARATOR + new.model):
            stopped_at = self._stopped.get((tenant, name), -STOPPED_MS)
            if now - stopped_at < STOPPED_MS and stopped_at >= now - validated_ms:
                raise StoppedMeanwhile(new.name)
        replaced = self._replace(route)
        epoch = max(route.epoch + 1, now)
        raw = {
            k.encode(): v if isinstance(v, bytes) else v.encode()
            for k, v in new.to_fields().items()
        }
        record = SessionRecord.from_fields({**raw, b"epoch": b"%d" % epoch})
        record = replace(record, created_ms=now, last_ms=now, dispatch=1)
        self._sessions[record.ref] = _Session(record)
        route.epoch = route.current = epoch
        route.nonce = nonce
        route.sessions[epoch] = record.ref
        return Opened(record.ref, now, *replaced)

    def _replace(self, route: _Route) -> tuple[SessionRef | None, int]:
        before = self._find(route.sessions.get(route.current))
        if before is None or before.record.state.is_final:
            return None, 0
        self._end_outside(
            before, State.STOPPED, "replaced", frames.end_comment(State.STOPPED, "replaced")
        )
        return before.record.ref, before.record.dispatch

    async def append(self, appends: Sequence[Append]) -> list[AppendResult | Exception]:
        return [self._append(append) for append in appends]

    def _append(self, append: Append) -> AppendResult:
        session = self._find(append.claim.ref)
        if session is None:
            return AppendResult(AppendStatus.GONE)
        record = session.record
        if record.state.is_final:
            return AppendResult(AppendStatus.ENDED)
        if (record.attempt, record.nonce) != (append.claim.attempt, append.claim.nonce):
            return AppendResult(AppendStatus.FENCED)
        if append.start != record.end:
            return AppendResult(AppendStatus.AT, record.end)
        self._write(session, append.data, append.window_bytes)
        session.tokens[append.first_token :] = append.tokens
        session.record = replace(session.record, token_count=len(session.tokens))
        if append.state is not None:
            self._finish(session, append.state, append.reason)
        return AppendResult(AppendStatus.APPENDED, session.record.end)

    def _write(self, session: _Session, data: bytes, window: int | None = None) -> None:
        record = session.record
        end = record.end + len(data)
        if data:
            session.chunks.append(Chunk(end, data))
            if window is not None:
                session.chunks = [chunk for chunk in session.chunks if chunk.end >= end - window]
            self._publish(record.ref, b"c%d\n%b" % (record.end, data))
        session.record = replace(record, end=end, last_ms=self._now())

    def _finish(self, session: _Session, state: State, reason: str) -> None:
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

    def _end_outside(self, session: _Session, state: State, reason: str, closing: bytes) -> None:
        self._write(session, closing)
        self._finish(session, state, reason)
        if session.record.worker:
            self.told.append((session.record.worker, session.record.ref))

    async def read(self, ref: SessionRef, offset: int) -> Page:
        session = self._find(ref)
        if session is None:
            return Page()
        after = [chunk for chunk in session.chunks if chunk.end > offset]
        page = after[:PAGE_ENTRIES_MAX]
        if page and page[0].start > offset:
            raise OffsetExpired(offset, page[0].start)
        if page:
            page[0] = page[0].cut(offset)
        return Page(page, session.end if len(after) < PAGE_ENTRIES_MAX else None)

    async def record(self, ref: SessionRef) -> SessionRecord | None:
        session = self._find(ref)
        return session.record if session else None

    async def tokens(self, ref: SessionRef) -> bytes:
        """The token string of a session."""
        session = self._find(ref)
        return pack_tokens(session.tokens) if session else b""

    async def resolve(self, tenant: str, name: str, epoch: int | None) -> SessionRecord:
        for candidate in candidates(name):
            route = self._routes.get((tenant, candidate))
            record = self._routed(route, name, epoch) if route else None
            if record is not None:
                return record
        raise SessionNotFound(name)

    def _routed(self, route: _Route, name: str, epoch: int | None) -> SessionRecord | None:
        wanted = epoch or route.current
        ref = route.sessions.get(wanted)
        if ref is None:
            if name == route.conversation.id or name in self._models(route):
                raise self._absent(route, name, epoch)
            return None
        session = self._find(ref)
        if session is None or 0 < session.record.expires_ms <= self._now():
            raise SessionExpired(name, wanted) if epoch else SessionNotFound(name, "expired")
        return session.record if session.record.answers_to(name) else None

    def _models(self, route: _Route) -> set[str]:
        known = {ref.model for ref in self._sessions if ref.conversation == route.conversation}
        return {route.conversation.id + SEPARATOR + model for model in known}

    def _absent(self, route: _Route, name: str, epoch: int | None) -> Exception:
        if epoch is not None and epoch > route.epoch:
            return EpochMismatch(epoch, route.current)
        if epoch is not None and epoch > route.erased:
            return SessionExpired(name, epoch)
        gone = route.gone if self._now() < route.gone_until_ms else ""
        return SessionNotFound(name, f"{gone} and evicted" if gone else "")

    async def lookup(self, tenant: str, names: Sequence[str]) -> list[SessionRecord]:
        found: dict[SessionRef, SessionRecord] = {}
        for (owner, _), route in self._routes.items():
            session = self._find(route.sessions.get(route.current))
            if owner != tenant or session is None:
                continue
            record = session.record
            if any(record.answers_to(n) or record.name.startswith(n + SEPARATOR) for n in names):
                found[record.ref] = record
        return list(found.values())

    async def stop(
        self, tenant: str, name: str, *, epoch: int | None, keep: bool, reason: str
    ) -> Stopped | None:
        if epoch is None:
            self._stopped[tenant, name] = self._now()
        for candidate in candidates(name):
            route = self._routes.get((tenant, candidate))
            session = self._find(route.sessions.get(route.current)) if route else None
            if route is None or session is None or not session.record.answers_to(name):
                continue
            if epoch not in (None, route.current):
                raise EpochMismatch(epoch or 0, route.current)
            return self._stop(route, session, keep, reason)
        return None

    def _stop(self, route: _Route, session: _Session, keep: bool, reason: str) -> Stopped:
        was = session.record
        live = not was.state.is_final
        if live:
            self._end_outside(
                session, State.STOPPED, reason, frames.end_comment(State.STOPPED, reason)
            )
        now = session.record
        if not keep:
            self._evict(route, now)
        return Stopped(
            stopped=live,
            ref=now.ref,
            state=now.state,
            reason=now.reason,
            size=now.end,
            worker=was.worker,
            queue_number=was.queue_number,
            dispatch=was.dispatch,
            was_claimed=was.lease_until_ms > 0,
        )

    def _evict(self, route: _Route, record: SessionRecord) -> None:
        for ref in route.sessions.values():
            if (session := self._find(ref)) is not None:
                session.gone_at_ms = self._now() + EVICTED_MS
        route.sessions.clear()
        route.current, route.erased = 0, route.epoch
        route.gone = f"{record.state} ({record.reason})"
        route.gone_until_ms = self._now() + TOMBSTONE_MS

    async def pulse(self, ref: SessionRef, *, silence_ms: int, comment: bytes) -> Pulse | None:
        session = self._find(ref)
        if session is None:
            return None
        record, now = session.record, self._now()
        waits = record.state in (State.QUEUED, State.LOADING) and record.lease_until_ms <= now
        if waits and silence_ms >= 0 and now - record.last_ms >= silence_ms:
            self._write(session, comment)
        record = session.record
        return Pulse(record.state, record.end, record.last_ms, now)

    async def pulses(self, asks: Sequence[Ask]) -> list[Pulse | Exception | None]:
        return [
            await self.pulse(ask.ref, silence_ms=ask.silence_ms, comment=ask.comment)
            for ask in asks
        ]

    async def claim(
        self, ref: SessionRef, *, worker: str, nonce: str, lease_s: float, suspect: bool = True
    ) -> ClaimResult:
        session = self._find(ref)
        if session is None:
            return ClaimResult(ClaimStatus.GONE)
        record, now = session.record, self._now()
        if record.state.is_final:
            return ClaimResult(ClaimStatus.ENDED)
        if record.nonce != nonce:
            if record.lease_until_ms > now or (record.deaths and not suspect):
                return ClaimResult(ClaimStatus.HELD)
            record = replace(
                record,
                state=State.RUNNING,
                attempt=record.attempt + 1,
                nonce=nonce,
                worker=worker,
                lease_until_ms=now + round(lease_s * 1000),
                claimed_tokens=record.token_count,
            )
            session.record = record
        return ClaimResult(ClaimStatus.CLAIMED, Claim(ref, worker, record.attempt, nonce))

    async def renew(self, claims: Sequence[Claim], lease_s: float) -> list[ClaimStatus | Exception]:
        return [self._renew(claim, lease_s) for claim in claims]

    def _renew(self, claim: Claim, lease_s: float) -> ClaimStatus:
        session = self._find(claim.ref)
        if session is None:
            return ClaimStatus.GONE
        record = session.record
        if record.state.is_final:
            return ClaimStatus.ENDED
        if (record.attempt, record.nonce) != (claim.attempt, claim.nonce):
            return ClaimStatus.FENCED
        until = self._now() + round(lease_s * 1000)
        session.record = replace(record, state=State.RUNNING, lease_until_ms=until)
        return ClaimStatus.RENEWED

    async def watch(self, conversation: Conversation, delay_s: float) -> None:
        self._watched[conversation] = self._now() + round(delay_s * 1000)

    async def due(self, most: int) -> list[Due]:
        now = self._now()
        found = [Due(who, str(when)) for who, when in self._watched.items() if when <= now]
        return found[:most]

    async def look(self, conversation: Conversation) -> Look | None:
        route = self._routes.get((conversation.tenant, conversation.id))
        session = self._find(route.sessions.get(route.current)) if route else None
        if session is None:
            return None
        record = session.record
        return Look(
            ref=record.ref,
            state=record.state,
            lease_until_ms=record.lease_until_ms,
            now_ms=self._now(),
            created_ms=record.created_ms,
            queue_number=record.queue_number,
            dispatch=record.dispatch,
            owner=record.owner,
            dialect=record.dialect,
            token_count=record.token_count,
        )

    async def again(self, due: Due, delay_s: float | None) -> None:
        if str(self._watched.get(due.conversation)) != due.score:
            return
        if delay_s is None:
            del self._watched[due.conversation]
        else:
            self._watched[due.conversation] = self._now() + round(delay_s * 1000)

    async def reap(
        self, look: Look, *, state: State, reason: str, closing: bytes, despite_lease: bool = False
    ) -> bool:
        session = self._find(look.ref)
        if session is None or session.record.state.is_final:
            return False
        lease = session.record.lease_until_ms
        if not despite_lease and (lease != look.lease_until_ms or lease > self._now()):
            return False
        self._end_outside(session, state, reason, closing)
        return True

    async def requeue(self, look: Look) -> Requeued:
        session = self._find(look.ref)
        if session is None or session.record.state is not State.RUNNING:
            return Requeued()
        record = session.record
        if record.lease_until_ms != look.lease_until_ms or record.lease_until_ms > self._now():
            return Requeued()
        progress = record.token_count - record.claimed_tokens >= PROGRESS_TOKENS
        deaths = 1 if progress else record.deaths + 1
        if deaths >= 2 or record.attempt >= ATTEMPTS_MAX:
            return Requeued(is_poison=True)
        return self._give_up(session, deaths)

    async def hand_over(self, claim: Claim) -> Requeued:
        session = self._find(claim.ref)
        if session is None or session.record.state is not State.RUNNING:
            return Requeued()
        if (session.record.attempt, session.record.nonce) != (claim.attempt, claim.nonce):
            return Requeued()
        session.record = replace(session.record, nonce="")
        return self._give_up(session, session.record.deaths)

    def _give_up(self, session: _Session, deaths: int) -> Requeued:
        dispatch = session.record.dispatch + 1
        session.record = replace(
            session.record,
            state=State.QUEUED,
            lease_until_ms=0,
            worker="",
            deaths=deaths,
            dispatch=dispatch,
        )
        return Requeued(dispatch)

    async def settle(
        self, claims: Sequence[Claim], lease_s: float
    ) -> list[ClaimStatus | Exception]:
        return await self.renew(claims, lease_s)

    async def redispatch(self, look: Look) -> int:
        session = self._find(look.ref)
        if session is None or session.record.state is not State.QUEUED:
            return 0
        if session.record.dispatch != look.dispatch:
            return 0
        session.record = replace(session.record, dispatch=look.dispatch + 1)
        return session.record.dispatch

    async def connection(self) -> int:
        """Memory never breaks."""
        return 1

    async def ping(self) -> None:
        """Always there."""

    def _find(self, ref: SessionRef | None) -> _Session | None:
        session = self._sessions.get(ref) if ref else None
        if session is not None and session.gone_at_ms <= self._now():
            del self._sessions[session.record.ref]
            return None
        return session

    def release(self, ref: SessionRef) -> None:
        """The producer's word that it has let go of the session."""
        self._publish(ref, b"r")

    def _publish(self, ref: SessionRef, payload: bytes) -> None:
        for listener in list(self._listeners):
            listener(keys.channel(ref), payload)

    @asynccontextmanager
    async def channels(
        self, on_message: OnMessage, on_reset: OnReset
    ) -> AsyncIterator[_AllChannels]:
        """The pub/sub side, for a ``Tailer``."""
        self._listeners.add(on_message)
        try:
            yield _AllChannels()
        finally:
            self._listeners.discard(on_message)


class _AllChannels:
    """Every listener hears everything; the hub looks for what it knows."""

    async def subscribe(self, channel: str) -> None:
        return None

    def unsubscribe(self, channel: str) -> None:
        return None
