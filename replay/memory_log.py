"""The session log in memory: the same contract as ``RedisLog``, for tests and for reading.

It says in plain Python what the scripts say in Lua. Its clock is an argument, so that a test may
let time pass.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from replay import frames
from replay.errors import (
    EpochMismatch,
    IntentMismatch,
    LineFull,
    OffsetExpired,
    SessionExpired,
    SessionNotFound,
    StoppedMeanwhile,
)
from replay.identity import SEPARATOR, Conversation, SessionRef, candidates
from replay.limits import LINE_MAX, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PLACE_S, TOMBSTONE_MS
from replay.log_values import (
    NOT_BEGUN,
    Append,
    AppendResult,
    AppendStatus,
    Ask,
    Attached,
    Busy,
    Doubt,
    IfBusy,
    Opened,
    Page,
    Pulse,
    Stopped,
    ThoughtEnd,
)
from replay.memory_leases import MemoryLeases
from replay.memory_state import Intent, Place, Route, Session
from replay.records import (
    NewSession,
    SessionRecord,
    State,
    pack_tokens,
)
from replay.subscription import OnMessage, OnReset

EVICTED_MS = 30_000
STOPPED_MS = 10_000
RECOVERY_MS = 10_000


class MemoryLog(MemoryLeases):
    """``SessionLog``, ``Leases`` and ``Feed`` in one process's memory."""

    async def open(
        self,
        new: NewSession,
        *,
        arrived_ms: float,
        nonce: str,
        if_busy: IfBusy = IfBusy.REPLACE,
    ) -> Opened | Attached | Busy:
        tenant, conversation = new.conversation.tenant, new.conversation
        route = self._routes.setdefault((tenant, conversation.id), Route(conversation))
        if route.nonce == nonce:
            known = self._sessions[route.sessions[route.epoch]].record
            return Opened(known.ref, known.created_ms)
        if (attached := self._kept(route, new)) is not None:
            return attached
        self._check_stops(new, arrived_ms)
        before = self._find(route.sessions.get(route.current))
        live = None if before is None or before.record.state.is_final else before
        if (instead := self._instead(route, new, live, nonce, if_busy)) is not None:
            return instead
        if live is not None:
            closing = frames.end_comment(State.STOPPED, "replaced")
            self._end_outside(live, State.STOPPED, "replaced", closing)
        record = self._open(route, new, nonce)
        if live is None:
            return Opened(record.ref, record.created_ms)
        return Opened(record.ref, record.created_ms, live.record.ref, live.record.dispatch)

    def _kept(self, route: Route, new: NewSession) -> Attached | None:
        intent = self._intent(route, new.idempotency_key)
        if intent is None:
            return None
        session = self._find(intent.ref)
        if session is not None and (session.record.state, session.record.reason) in NOT_BEGUN:
            return None
        if intent.request_sha256 != new.request_sha256:
            raise IntentMismatch(new.idempotency_key)
        return Attached(route.conversation, intent.ref.epoch)

    def _intent(self, route: Route, key: str) -> Intent | None:
        intent = route.intents.get(key)
        return intent if intent is not None and intent.until_ms > self._now() else None

    def _check_stops(self, new: NewSession, arrived_ms: float) -> None:
        now, conversation = self._now(), new.conversation
        for name in (conversation.id, new.name, conversation.id + SEPARATOR + new.model):
            stopped_at = self._stopped.get((conversation.tenant, name), -STOPPED_MS)
            if now - stopped_at < STOPPED_MS and stopped_at >= arrived_ms:
                raise StoppedMeanwhile(new.name)

    def _instead(
        self, route: Route, new: NewSession, live: Session | None, nonce: str, if_busy: IfBusy
    ) -> Attached | Busy | None:
        """What happens instead of an opening, None where nothing is in its way."""
        if live is not None and if_busy is IfBusy.ATTACH:
            return Attached(route.conversation, route.current)
        if live is not None and if_busy is IfBusy.REJECT:
            return Busy(live.record.ref)
        if if_busy is not IfBusy.QUEUE:
            return None
        if nonce not in route.line and len(route.line) >= LINE_MAX:
            raise LineFull(new.name)
        now = self._now()
        route.line[nonce] = Place(new.queue_number, now + 1000 * PLACE_S)
        route.line = {one: place for one, place in route.line.items() if place.until_ms > now}
        if live is not None:
            return Busy(live.record.ref)
        if nonce != min(route.line, key=lambda one: route.line[one].queue_number):
            return Busy(None)
        del route.line[nonce]
        return None

    def _open(self, route: Route, new: NewSession, nonce: str) -> SessionRecord:
        now = self._now()
        epoch = max(route.epoch + 1, now)
        raw = {
            k.encode(): v if isinstance(v, bytes) else v.encode()
            for k, v in new.to_fields().items()
        }
        record = SessionRecord.from_fields({**raw, b"epoch": b"%d" % epoch})
        record = replace(record, created_ms=now, last_ms=now, dispatch=1, run_id=self.run)
        self._sessions[record.ref] = Session(record)
        route.epoch = route.current = epoch
        route.nonce = nonce
        route.sessions[epoch] = record.ref
        self._note_intent(route, record)
        self._tell_news(record.ref)
        return record

    async def recall(
        self, conversations: Sequence[Conversation], *, key: str, request_sha256: str
    ) -> Attached | None:
        for conversation in conversations:
            route = self._routes.get((conversation.tenant, conversation.id))
            intent = self._intent(route, key) if route else None
            if intent is not None and intent.request_sha256 == request_sha256:
                return Attached(conversation, intent.ref.epoch)
        return None

    async def leave_line(self, conversation: Conversation, nonce: str) -> None:
        if (route := self._routes.get((conversation.tenant, conversation.id))) is not None:
            route.line.pop(nonce, None)

    async def clock_ms(self, conversation: Conversation) -> float:
        return self._now()

    async def append(self, appends: Sequence[Append]) -> list[AppendResult | Exception]:
        return [self._append(append) for append in appends]

    def _append(self, append: Append) -> AppendResult:
        session = self._find(append.claim.ref)
        if session is None:
            return AppendResult(AppendStatus.GONE)
        record = session.record
        if record.state.is_final:
            return AppendResult(AppendStatus.ENDED)
        if record.attempt < append.claim.attempt:
            return AppendResult(AppendStatus.FORGOTTEN)
        if (record.attempt, record.nonce) != (append.claim.attempt, append.claim.nonce):
            return AppendResult(AppendStatus.FENCED)
        if append.start != record.end or append.first_token > record.token_count:
            return AppendResult(AppendStatus.AT, record.end, record.token_count)
        self._write(session, append.data, append.window_bytes)
        if append.tokens:
            session.tokens[append.first_token :] = append.tokens
        session.record = replace(session.record, token_count=len(session.tokens))
        if append.state is not None:
            self._finish(session, append.state, append.reason)
        record = session.record
        return AppendResult(AppendStatus.APPENDED, record.end, record.token_count)

    async def read(self, ref: SessionRef, offset: int, *, bytes_max: int = PAGE_BYTES_MAX) -> Page:
        session = self._find(ref)
        if session is None:
            return Page()
        after = [chunk for chunk in session.chunks if chunk.end > offset]
        within = [chunk for chunk in after if chunk.end <= offset + bytes_max]
        page = after[: len(within) + 1][:PAGE_ENTRIES_MAX]
        if page and page[0].start > offset:
            raise OffsetExpired(offset, page[0].start)
        if page:
            page[0] = page[0].cut(offset)
        more = len(after) > len(within) or len(page) == PAGE_ENTRIES_MAX
        return Page(page, None if more else session.end, Doubt.of(session.record), more)

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

    def _routed(self, route: Route, name: str, epoch: int | None) -> SessionRecord | None:
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

    def _models(self, route: Route) -> set[str]:
        known = {ref.model for ref in self._sessions if ref.conversation == route.conversation}
        return {route.conversation.id + SEPARATOR + model for model in known}

    def _absent(self, route: Route, name: str, epoch: int | None) -> Exception:
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
            if 0 < record.expires_ms <= self._now():
                continue
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

    async def end_thought(self, ref: SessionRef) -> ThoughtEnd:
        session = self._find(ref)
        if session is None or session.record.state.is_final:
            return ThoughtEnd.GONE
        if not session.record.reasoning_control:
            return ThoughtEnd.DISABLED
        session.record = replace(session.record, reasoning_end=1)
        return ThoughtEnd.ORDERED

    async def name_completion(self, completion_id: str, ref: SessionRef, ttl_s: float) -> None:
        self._completions[completion_id] = (ref, self._now() + 1000 * ttl_s)

    async def completion(self, completion_id: str) -> SessionRef | None:
        ref, until_ms = self._completions.get(completion_id, (None, 0.0))
        return ref if until_ms > self._now() else None

    async def erased(self, tenant: str, name: str) -> None:
        """Memory forgets what was evicted with all the rest."""

    def _stop(self, route: Route, session: Session, keep: bool, reason: str) -> Stopped:
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

    def _evict(self, route: Route, record: SessionRecord) -> None:
        for ref in route.sessions.values():
            if (session := self._find(ref)) is not None:
                session.gone_at_ms = self._now() + EVICTED_MS
                session.record = replace(session.record, expires_ms=1)
        route.sessions.clear()
        route.current, route.erased = 0, route.epoch
        route.gone = f"{record.state} ({record.reason})"
        route.gone_until_ms = self._now() + TOMBSTONE_MS
        self._tell_news(record.ref)

    async def pulse(self, ref: SessionRef, *, silence_ms: int, comment: bytes) -> Pulse | None:
        session = self._find(ref)
        if session is None:
            return None
        record, now = session.record, self._now()
        waits = record.state in (State.QUEUED, State.LOADING) and record.lease_until_ms <= now
        due = waits and silence_ms >= 0 and now - record.last_ms >= silence_ms
        if due and self._may_comment(session):
            self._write(session, comment)
        record = session.record
        return Pulse(record.state, record.end, record.last_ms, now, Doubt.of(record))

    def _may_comment(self, session: Session) -> bool:
        """After a restart a producer that was forgotten is given time to say so."""
        if session.record.run_id == self.run:
            return True
        if session.record.other_run != self.run:
            record = replace(session.record, other_run=self.run, other_ms=self._now())
            session.record = record
            return False
        if self._now() - session.record.other_ms < RECOVERY_MS:
            return False
        return self._mark_doubt(session, session.record.end)

    async def pulses(self, asks: Sequence[Ask]) -> list[Pulse | Exception | None]:
        return [
            await self.pulse(ask.ref, silence_ms=ask.silence_ms, comment=ask.comment)
            for ask in asks
        ]

    async def run_id(self) -> str:
        """Names this start, until a test lets it start anew."""
        return self.run

    async def ping(self) -> None:
        """Always there."""

    def release(self, ref: SessionRef) -> None:
        """The producer's word that it has let go of the session."""
        self._publish(ref, b"r")

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
