"""Who produces a session, in memory: what ``RedisLeases`` says in scripts, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from replay import frames
from replay.blocks import Block
from replay.identity import Conversation, SessionRef
from replay.limits import DEATHS_MAX, PROGRESS_TOKENS
from replay.log_values import (
    Claim,
    ClaimResult,
    ClaimStatus,
    Compactable,
    Due,
    Look,
    Requeued,
    Restored,
)
from replay.memory_state import MemoryState, Route, Session
from replay.records import SessionRecord, State


class MemoryLeases(MemoryState):
    """``Leases`` in one process's memory."""

    async def claim(
        self,
        ref: SessionRef,
        *,
        worker: str,
        nonce: str,
        lease_s: float,
    ) -> ClaimResult:
        session = self._find(ref)
        if session is None:
            return ClaimResult(ClaimStatus.GONE)
        record, now = session.record, self._now()
        if record.state.is_final:
            return ClaimResult(ClaimStatus.ENDED)
        if record.nonce != nonce:
            if record.lease_until_ms > now:
                return ClaimResult(ClaimStatus.HELD)
            record = replace(
                record,
                state=State.RUNNING,
                attempt=record.attempt + 1,
                nonce=nonce,
                worker=worker,
                lease_until_ms=now + round(lease_s * 1000),
                claimed_tokens=record.token_count,
                entered=record.entered if record.deaths else record.attempt + 1,
            )
            session.record = record
            self._mark_doubt(session, record.end)
        claim = Claim(ref, worker, record.attempt, nonce)
        return ClaimResult(ClaimStatus.CLAIMED, claim, session.record.doubts > 0)

    async def enter(self, claim: Claim) -> ClaimStatus:
        held = self._held(claim)
        if isinstance(held, Session):
            held.record = replace(held.record, entered=claim.attempt)
            return ClaimStatus.RENEWED
        return held

    async def renew(self, claims: Sequence[Claim], lease_s: float) -> list[ClaimStatus | Exception]:
        return [self._renew(claim, lease_s) for claim in claims]

    def _held(self, claim: Claim) -> Session | ClaimStatus:
        """The session, where the claim stands; else why not."""
        session = self._find(claim.ref)
        if session is None:
            return ClaimStatus.GONE
        record = session.record
        if record.state.is_final:
            return ClaimStatus.ENDED
        if record.attempt < claim.attempt:
            return ClaimStatus.FORGOTTEN
        if (record.attempt, record.nonce) != (claim.attempt, claim.nonce):
            return ClaimStatus.FENCED
        return session

    def _renew(self, claim: Claim, lease_s: float) -> ClaimStatus:
        session = self._held(claim)
        if not isinstance(session, Session):
            return session
        record = session.record
        until = self._now() + round(lease_s * 1000)
        session.record = replace(record, state=State.RUNNING, lease_until_ms=until)
        return ClaimStatus.RENEWED if record.run_id == self.run else ClaimStatus.MOVED

    async def watch(self, conversation: Conversation, delay_s: float) -> None:
        score = self._now() + round(delay_s * 1000)
        before = self._watched.get(conversation, score + 1)
        self._watched[conversation] = min(score, before - 1)

    async def rewatch(self) -> None:
        for session in list(self._sessions.values()):
            if not session.record.state.is_final:
                await self.watch(session.record.ref.conversation, 2.0)

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
            ended_ms=record.ended_ms,
        )

    async def again(self, due: Due, delay_s: float | None) -> Due | None:
        if str(self._watched.get(due.conversation)) != due.score:
            return None
        if delay_s is None:
            del self._watched[due.conversation]
            return None
        score = self._watched[due.conversation] = self._now() + round(delay_s * 1000)
        return Due(due.conversation, str(score))

    async def compactable(
        self, conversation: Conversation, *, settled_s: float, bytes_min: int
    ) -> list[Compactable]:
        route = self._routes.get((conversation.tenant, conversation.id))
        found = [self._find(ref) for ref in route.sessions.values()] if route else []
        now = self._now()
        return [
            _extent(one)
            for one in found
            if one is not None
            and one.record.state.is_final
            and one.record.ended_ms + round(settled_s * 1000) <= now < one.record.expires_ms
            and one.record.end >= bytes_min
            and not (one.record.owner or one.record.packed_bytes)
        ]

    async def compact(self, seen: Compactable, blocks: Sequence[Block]) -> bool:
        session = self._find(seen.ref)
        if session is None or session.record.expires_ms <= self._now():
            return False
        if session.record.packed_bytes or _extent(session) != seen:
            return False
        borders = [seen.first, *(block.end for block in blocks)]
        if borders[:-1] != [block.start for block in blocks] or borders[-1] != seen.end:
            return False
        session.chunks, session.tokens = list(blocks), []
        packed_bytes = sum(len(block.packed) for block in blocks)
        session.record = replace(session.record, prompt=(), packed_bytes=packed_bytes)
        return True

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
        deaths, hand_overs = _deaths_in_a_row(record), record.hand_overs
        if record.entered == record.attempt:
            deaths += 1
        else:
            hand_overs += 1
        if deaths >= 2 or record.attempt - hand_overs >= DEATHS_MAX:
            return Requeued(is_poison=True)
        session.record = replace(record, hand_overs=hand_overs)
        return self._give_up(session, deaths)

    async def hand_over(self, claim: Claim) -> Requeued:
        session = self._find(claim.ref)
        if session is None or session.record.state is not State.RUNNING:
            return Requeued()
        if (session.record.attempt, session.record.nonce) != (claim.attempt, claim.nonce):
            return Requeued()
        hand_overs = session.record.hand_overs + 1
        session.record = replace(session.record, nonce="", hand_overs=hand_overs)
        return self._give_up(session, _deaths_in_a_row(session.record))

    def _give_up(self, session: Session, deaths: int) -> Requeued:
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

    def connection(self) -> int:
        """Memory never breaks."""
        return 1

    async def restore(
        self,
        claim: Claim,
        record: SessionRecord,
        *,
        start: int,
        delivered: int | None,
        lease_s: float,
    ) -> Restored:
        session = self._find(claim.ref)
        if session is None and (session := self._remade(claim, record, start)) is None:
            return Restored(ClaimStatus.ENDED)
        is_now = session.record
        if is_now.state.is_final:
            return Restored(ClaimStatus.ENDED)
        if is_now.attempt > claim.attempt or (
            is_now.attempt == claim.attempt and is_now.nonce != claim.nonce
        ):
            return Restored(ClaimStatus.FENCED)
        whole = delivered is not None and is_now.end >= delivered
        session.record = replace(
            is_now,
            state=State.RUNNING,
            attempt=claim.attempt,
            nonce=claim.nonce,
            worker=claim.worker,
            lease_until_ms=self._now() + round(lease_s * 1000),
            run_id=self.run if whole else is_now.run_id,
        )
        return Restored(ClaimStatus.RESTORED, is_now.end, is_now.token_count, whole)

    def _remade(self, claim: Claim, record: SessionRecord, start: int) -> Session | None:
        ref = claim.ref
        at = (ref.tenant, ref.conversation_id)
        route = self._routes.setdefault(at, Route(ref.conversation))
        if route.epoch > ref.epoch or route.erased >= ref.epoch:
            return None
        before = self._find(route.sessions.get(route.current))
        if before is not None and not before.record.state.is_final:
            closing = frames.end_comment(State.STOPPED, "replaced")
            self._end_outside(before, State.STOPPED, "replaced", closing)
        made = replace(record, end=start, token_count=0, run_id="", attempt=0, nonce="")
        self._sessions[ref] = session = Session(made)
        route.epoch = route.current = ref.epoch
        route.sessions[ref.epoch] = ref
        self._note_intent(route, record)
        return session

    async def diverge(self, claim: Claim, *, offset: int, closing: bytes) -> None:
        session = self._find(claim.ref)
        if session is None or session.record.state.is_final:
            return
        session.record = replace(session.record, run_id="")
        self._mark_doubt(session, offset)
        self._end_outside(session, State.LOST, "log", closing)


def _deaths_in_a_row(record: SessionRecord) -> int:
    added = record.token_count - record.claimed_tokens
    return 0 if added >= PROGRESS_TOKENS else record.deaths


def _extent(session: Session) -> Compactable:
    record, chunks = session.record, session.chunks
    first = chunks[0].start if chunks else record.end
    return Compactable(record.ref, first, record.end, len(chunks) + 1, record.ended_ms)
