"""The life of one session at its worker: claim, generate, render, store, let go.

A session that another worker began is gone on with: the tokens in the log are fed again, and
replayed through the renderer, which brings it to where the log ends; from there on everything is as
in a first attempt. Nothing is appended before the takeover is on disk, beside the prefill.

The engine's steps arrive on its thread and are handed to the event loop once per step, for all
sessions together. Whatever ends a session from outside (a stop, a newer POST, another attempt)
stops its sequence; the slot is free when the engine says so, and only then the release is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from inference_worker.choices import Choice, Stage, choices_of, last_flags
from inference_worker.claims import ClaimableLog, Claims
from inference_worker.engine import Engine, EngineError, FinishReason, Step
from inference_worker.outlet import Outlet
from inference_worker.producer import Producer
from inference_worker.renewals import Renewals
from inference_worker.session import Session
from inference_worker.suspects import Suspects
from replay import keys
from replay.cluster import SlotRecord
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log_values import AppendStatus, Claim, ClaimStatus
from replay.records import TOKEN_FORCED, State, Token
from replay.request import GenerationRequest

STOP_S = 0.5
"""How long a worker that ends waits for its engine; a prompt chunk may take longer."""

HAND_OVER_S = 1.0
"""How long it then takes to store what it has and to give up its sessions."""

SETTLE_RETRY_S = 0.1

EARLY_ORDERS_MAX = 64
"""How many orders to end a thought are kept for sessions that are just being claimed."""

logger = logging.getLogger(__name__)

Release = Callable[[SessionRef], Awaitable[None]]
Requeue = Callable[[SessionRef, int, int], Awaitable[None]]
"""Puts a session into its queue: its queue number, and the number of this dispatch."""


class Sessions:
    """All sessions of one worker. Owned by the event loop; ``on_steps`` alone runs elsewhere."""

    def __init__(
        self,
        log: ClaimableLog,
        producer: Producer,
        release: Release,
        *,
        worker: str,
        lease_s: float,
    ) -> None:
        self._log = log
        self._producer = producer
        self._release = release
        self._claims = Claims(log, worker=worker, lease_s=lease_s)
        self._lease_s = lease_s
        self._running: dict[str, Session] = {}
        self._by_sequence: dict[str, tuple[Session, Choice]] = {}
        self._by_key: dict[str, str] = {}
        self._early_orders: deque[str] = deque(maxlen=EARLY_ORDERS_MAX)
        self._releases: asyncio.Queue[Session] = asyncio.Queue()
        self._takeovers: asyncio.Queue[Claim] = asyncio.Queue()
        self._suspects = Suspects(log, submit=self._submit, refused=self._refused)
        self._claiming: list[Engine] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._renewals = Renewals(log, producer, lease_s=lease_s, on_lost=self._lose)
        self.on_slot_free: Callable[[], None] = lambda: None
        self.requeue: Requeue = _nowhere

    def __len__(self) -> int:
        return len(self._running)

    def steps_of(self, loop: asyncio.AbstractEventLoop) -> Callable[[Sequence[Step]], None]:
        """What an engine calls on its thread: hands one step's outcome to the event loop."""
        return lambda steps: _call_soon(loop, self._take, steps)

    def room(self, engine: Engine) -> int:
        """How many more sessions may be started: slots that nobody has, nor waits for."""
        running = (one for one in self._running.values() if one.engine is engine)
        return self._vacant(engine) - sum(session.wanted_slots for session in running)

    def busy(self, engine: Engine) -> tuple[SlotRecord, ...]:
        """Who has the engine's slots, in the order of their claims."""
        running = (one for one in self._running.values() if one.engine is engine)
        return tuple(slot for session in running for slot in session.busy())

    def _vacant(self, engine: Engine) -> int:
        """Free slots, less those that suspects will enter, and what is being claimed."""
        taken = self._suspects.waiting_for(engine) + self._claiming.count(engine)
        return engine.free_slots - taken

    async def start(self, engine: Engine, ref: SessionRef) -> None:
        """Claims a session and submits it. Whatever is wrong ends the session, not the worker."""
        if self._producer.has(ref) or ref.path() in self._running:
            return  # ours already, or still: a renewal will say so, or the sweeper queues it again
        self._claiming.append(engine)
        try:
            claimed = await self._claims.claim(ref)
        finally:
            self._claiming.remove(engine)
        if claimed is None:
            return
        claim, record, tokens = claimed.claim, claimed.record, claimed.tokens
        outlet = Outlet(
            claim,
            record,
            body=claimed.body,
            tokens=tokens,
            is_settled=not claimed.is_takeover,
            on_lost=lambda status: self._lose(claim, status),
        )
        self._producer.add(outlet)
        try:
            if record.model_sha256 and record.model_sha256 != engine.model.sha256:
                raise EngineError("the session was prepared for another file of this model")
            request = GenerationRequest.from_json(record.request)
            choices = choices_of(engine, record, request, tokens, claimed.body)
            claimed_ms = record.lease_until_ms - int(1000 * self._lease_s)
            session = Session(claim, engine, choices, outlet, record, claimed_ms=claimed_ms)
            self._enter(ref, session)
            if keys.session(ref) in self._early_orders:
                session.end_thought()
            if session.is_suspect:
                self._suspects.add(session)
            else:
                session.submit(self._vacant(engine))
        except Exception as error:  # whatever it is, the session must end and the worker live
            self._fail(outlet, error)
        if not outlet.is_settled:
            logger.info("attempt %d from token %d: %s", claim.attempt, len(tokens), ref.path())
            self._takeovers.put_nowait(claim)

    async def try_suspects(self) -> None:
        """Lets the sessions that a worker died with enter, one by one, until it is cancelled."""
        await self._suspects.run()

    def _submit(self, session: Session) -> None:
        try:
            session.submit(self._vacant(session.engine))
        except Exception as error:  # the root of this submission: others must go on
            self._fail(session.outlet, error)

    def _refused(self, session: Session, status: ClaimStatus) -> None:
        if not self._producer.renewed(session.claim, status):
            self._lose(session.claim, AppendStatus(status))

    def _fail(self, outlet: Outlet, error: Exception) -> None:
        path = outlet.claim.ref.path()
        logger.error("cannot generate %s", path, exc_info=error)
        outlet.fail("engine", str(error))
        if (session := self._running.get(path)) is not None:
            self._halt(session)
        self._producer.wake()

    def stop(self, session_key: str) -> None:
        """A session was ended from outside: its sequence stops within one token."""
        path = self._by_key.get(session_key)
        if path is not None:
            self._lose(self._running[path].claim, AppendStatus.ENDED)

    def end_thought(self, session_key: str) -> None:
        """Somebody wants the session to think no longer; so its record says too."""
        path = self._by_key.get(session_key)
        if path is None:
            self._early_orders.append(session_key)
        else:
            self._running[path].end_thought()

    async def keep_leases(self) -> None:
        """Renews the leases until it is cancelled; a lost one stops its sequence."""
        await self._renewals.run()

    def renew_now(self) -> None:
        """Redis was away: what it has forgotten meanwhile is to be found out at once."""
        self._renewals.now()

    async def settle_takeovers(self) -> None:
        """Lets the sessions that were taken over write once that is on disk, until cancelled."""
        while True:
            claims = [await self._takeovers.get()]
            while not self._takeovers.empty():
                claims.append(self._takeovers.get_nowait())
            try:
                statuses = await self._log.settle(claims, self._lease_s)
            except LogUnavailable as error:
                logger.warning("takeovers are not settled: %s", error)
                statuses = [error] * len(claims)
            for claim, status in zip(claims, statuses, strict=True):
                self._settled(claim, status)
            if not self._takeovers.empty():
                await asyncio.sleep(SETTLE_RETRY_S)

    def _settled(self, claim: Claim, status: ClaimStatus | Exception) -> None:
        if isinstance(status, Exception):
            self._takeovers.put_nowait(claim)
        elif status in (ClaimStatus.FENCED, ClaimStatus.ENDED):
            self._lose(claim, AppendStatus(status))
            self._producer.drop_claim(claim)
        elif self._producer.renewed(claim, status):
            if status in (ClaimStatus.RENEWED, ClaimStatus.MOVED):
                self._producer.settle(claim)
            else:  # Redis forgot even the claim; it is made known again first
                self._takeovers.put_nowait(claim)

    async def tell_releases(self) -> None:
        """Tells whoever waits for a stop that the session is let go, until it is cancelled."""
        while True:
            session = await self._releases.get()
            if session.lost is AppendStatus.AT:
                # Somebody wrote where we would have: another attempt may go on from there.
                await self._hand_over(session.outlet)
            try:
                await self._release(session.claim.ref)
            except LogUnavailable as error:
                logger.warning("a release is not told: %s", error)

    async def drain(self, limit_s: float) -> None:
        """Waits for the sessions to finish; what is left is handed over to another worker."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        left = list(self._running.values())
        for session in left:
            self._halt(session)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._idle.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S / 2):
                await self._producer.flushed()
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S / 2):
                for outlet in self._producer.outlets():
                    await self._hand_over(outlet)

    async def _hand_over(self, outlet: Outlet) -> None:
        """Gives a session up. What cannot be told now is found by a sweeper."""
        self._producer.drop(outlet)
        record = outlet.record
        with suppress(LogUnavailable):
            requeued = await self._log.hand_over(outlet.claim)
            if requeued.dispatch:
                logger.info("handed over: %s", record.ref.path())
                await self.requeue(record.ref, record.queue_number, requeued.dispatch)

    def _take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if (found := self._by_sequence.get(step.sequence_id)) is not None:
                self._tell(*found, step)
        self._producer.wake()

    def _tell(self, session: Session, choice: Choice, step: Step) -> None:
        if step.finish is not None:
            choice.stage = Stage.OVER
        try:
            if not session.outlet.has_own_end:
                self._render(session, choice, step)
        except Exception as error:  # the root of one session: the others' steps are told too
            self._fail(session.outlet, error)
        if step.finish is not None:
            self._over(session, choice)

    def _render(self, session: Session, choice: Choice, step: Step) -> None:
        flags = TOKEN_FORCED if step.is_forced else 0
        tokens = [Token(token, choice.index, flags) for token in step.tokens]
        choice.progressed(step)
        data = choice.progress.told(step) if choice.progress else b""
        if tokens or step.text:
            data += choice.renderer.step(
                step.text,
                tokens=choice.tokens,
                timings=step.timings,
                logprobs=step.logprobs,
                ids=step.tokens,
            )
        if step.finish is None:
            session.outlet.put(data, tokens)
            if choice.has_become_late(step):
                session.engine.stop(choice.spec.id)
        elif session.lost is None:
            self._finish(session, choice, step, data, tokens)

    def _finish(
        self, session: Session, choice: Choice, step: Step, data: bytes, tokens: list[Token]
    ) -> None:
        outlet, finish = session.outlet, choice.finish_of(step)
        assert finish is not None
        if finish.reason is FinishReason.FAILED:
            logger.error("engine failed: %s: %s", step.sequence_id, finish.error)
            outlet.put(data, tokens)
            outlet.fail("engine", finish.error)
            session.stop()
            return
        if finish.reason is FinishReason.STOPPED:
            return
        flags = last_flags(finish)
        choice.ended(flags)
        finish = replace(finish, ended_ms=session.now_ms)
        data += choice.renderer.finish(finish, tokens=choice.tokens, timings=step.timings)
        if session.is_complete:
            outlet.close(session.held + data, tokens, State.COMPLETED, session.reason)
        elif tokens:
            last = replace(tokens[-1], flags=tokens[-1].flags | flags)
            outlet.put(data, [*tokens[:-1], last])
        else:
            session.held += data

    def _over(self, session: Session, choice: Choice) -> None:
        self._by_sequence.pop(choice.spec.id, None)
        self._seat(session.engine)
        if session.is_over:
            self._leave(session.claim.ref.path())
        else:
            self.on_slot_free()

    def _seat(self, engine: Engine) -> None:
        """Gives the free slots to the choices that wait for one, session by session."""
        for session in list(self._running.values()):
            if session.engine is engine and session.wanted_slots and self._vacant(engine) > 0:
                self._submit(session)

    def _lose(self, claim: Claim, status: AppendStatus) -> None:
        path = claim.ref.path()
        session = self._running.get(path)
        if session is not None and session.claim == claim and session.lost is None:
            logger.info("lost (%s): %s", status, path)
            session.lost = status
            self._halt(session)

    def _halt(self, session: Session) -> None:
        session.stop()
        if session.is_over:
            self._leave(session.claim.ref.path())

    def _enter(self, ref: SessionRef, session: Session) -> None:
        self._running[ref.path()] = session
        self._by_sequence |= {one.spec.id: (session, one) for one in session.choices}
        self._by_key[keys.session(ref)] = ref.path()
        self._idle.clear()

    def _leave(self, path: str) -> None:
        session = self._running.pop(path, None)
        if session is None:
            return
        del self._by_key[keys.session(session.claim.ref)]
        for choice in session.choices:
            self._by_sequence.pop(choice.spec.id, None)
        session.left.set()
        if session.lost is not None and not session.outlet.has_own_end:
            self._producer.drop(session.outlet)
        if not self._running:
            self._idle.set()
        self._releases.put_nowait(session)
        self.on_slot_free()


def _call_soon(
    loop: asyncio.AbstractEventLoop,
    take: Callable[[Sequence[Step]], None],
    steps: Sequence[Step],
) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(take, steps)


async def _nowhere(ref: SessionRef, queue_number: int, dispatch: int) -> None:
    """Nobody enqueues: a sweeper finds the session without a job."""
