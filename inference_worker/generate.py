"""The life of one session at its worker: claim, generate, render, store, let go.

The engine's steps arrive on its thread and are handed to the event loop once per step, for all
sessions together. Whatever ends a session from outside (a stop, a newer POST, another attempt)
stops its sequence; the slot is free when the engine says so, and only then the release is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from inference_worker.engine import (
    Engine,
    EngineError,
    Finish,
    FinishReason,
    SequenceSpec,
    Step,
)
from inference_worker.producer import Outlet, Producer
from inference_worker.rendering import Renderer, renderer_of
from replay import frames, keys
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log import AppendStatus, Claim, ClaimStatus, Leases, SessionLog
from replay.records import Reason, SessionRecord, State, Token
from replay.request import GenerationRequest

CLAIM_TRIES = 20
CLAIM_RETRY_S = 0.1
"""A log that is away for this long (2 s) loses the job; the sweeper queues the session again."""

logger = logging.getLogger(__name__)

Release = Callable[[SessionRef], Awaitable[None]]


class ClaimableLog(SessionLog, Leases, Protocol):
    """What a worker needs of the log."""


@dataclass(slots=True)
class Session:
    """One session that this worker produces."""

    claim: Claim
    engine: Engine
    renderer: Renderer
    outlet: Outlet
    lost: AppendStatus | None = None


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
        self._worker = worker
        self._lease_s = lease_s
        self._running: dict[str, Session] = {}
        self._by_key: dict[str, str] = {}
        self._releases: asyncio.Queue[SessionRef] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_slot_free: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._running)

    def steps_of(self, loop: asyncio.AbstractEventLoop) -> Callable[[Sequence[Step]], None]:
        """What an engine calls on its thread: hands one step's outcome to the event loop."""
        return lambda steps: _call_soon(loop, self._take, steps)

    async def start(self, engine: Engine, ref: SessionRef) -> None:
        """Claims a session and submits it. Whatever is wrong ends the session, not the worker."""
        claim = await self._claim(ref)
        record = await self._log.record(ref) if claim else None
        if claim is None or record is None:
            return
        outlet = Outlet(claim, record, on_lost=lambda status: self._lose(ref, status))
        self._producer.add(outlet)
        try:
            request = GenerationRequest.from_json(record.request)
            renderer = renderer_of(record, request)
            self._enter(ref, Session(claim, engine, renderer, outlet))
            engine.submit(_sequence(ref, record, request))
        except (EngineError, KeyError, TypeError, ValueError) as error:
            logger.exception("cannot generate %s", ref.path())
            outlet.fail("engine", str(error))
            self._leave(ref.path())
            self._producer.wake()

    async def _claim(self, ref: SessionRef) -> Claim | None:
        nonce = uuid4().hex
        for _ in range(CLAIM_TRIES):
            try:
                result = await self._log.claim(
                    ref, worker=self._worker, nonce=nonce, lease_s=self._lease_s
                )
            except LogUnavailable as error:
                logger.warning("claiming again: %s", error)
                await asyncio.sleep(CLAIM_RETRY_S)
                continue
            if result.status is not ClaimStatus.CLAIMED:
                logger.info("not claimed (%s): %s", result.status, ref.path())
            return result.claim
        return None

    def stop(self, session_key: str) -> None:
        """A session was ended from outside: its sequence stops within one token."""
        path = self._by_key.get(session_key)
        if path is not None:
            self._lose(self._running[path].claim.ref, AppendStatus.ENDED)

    async def keep_leases(self) -> None:
        """Renews the leases until it is cancelled; a lost one stops its sequence."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            claims = [session.claim for session in self._running.values()]
            try:
                statuses = await self._log.renew(claims, self._lease_s)
            except LogUnavailable as error:
                logger.warning("leases are not renewed: %s", error)
                continue
            for claim, status in zip(claims, statuses, strict=True):
                if isinstance(status, ClaimStatus) and status is not ClaimStatus.RENEWED:
                    self._lose(claim.ref, AppendStatus(status))

    async def tell_releases(self) -> None:
        """Tells whoever waits for a stop that the session is let go, until it is cancelled."""
        while True:
            ref = await self._releases.get()
            try:
                await self._release(ref)
            except LogUnavailable as error:
                logger.warning("a release is not told: %s", error)

    async def drain(self, limit_s: float) -> None:
        """Waits for the sessions to finish; what is left is ended as lost, and stored."""
        try:
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        except TimeoutError:
            left = list(self._running.values())
            for session in left:
                closing = frames.closing(session.outlet.dialect, State.LOST, Reason.ORPHAN)
                session.outlet.close(closing, (), State.LOST, Reason.ORPHAN)
                session.engine.stop(session.claim.ref.path())
            self._producer.wake()
            async with asyncio.timeout(1.0):
                await asyncio.gather(*(session.outlet.closed.wait() for session in left))

    def _take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            session = self._running.get(step.sequence_id)
            if session is not None:
                self._render(session, step)
        self._producer.wake()

    def _render(self, session: Session, step: Step) -> None:
        outlet = session.outlet
        tokens = [Token(token) for token in step.tokens]
        count = outlet.token_count + len(tokens)
        data = b""
        if tokens or step.text:
            data = session.renderer.step(step.text, tokens=count, timings=step.timings)
        if step.finish is None:
            outlet.put(data, tokens)
            return
        if session.lost is None:
            self._finish(session, step, data, tokens)
        self._leave(step.sequence_id)

    def _finish(self, session: Session, step: Step, data: bytes, tokens: list[Token]) -> None:
        outlet, finish = session.outlet, step.finish
        assert finish is not None
        if finish.reason is FinishReason.FAILED:
            logger.error("engine failed: %s: %s", step.sequence_id, finish.error)
            outlet.put(data, tokens)
            outlet.fail("engine", finish.error)
            return
        if finish.reason is FinishReason.STOPPED:
            return
        count = outlet.token_count + len(tokens)
        data += session.renderer.finish(finish, tokens=count, timings=step.timings)
        outlet.close(data, tokens, State.COMPLETED, _reason(finish))

    def _lose(self, ref: SessionRef, status: AppendStatus) -> None:
        session = self._running.get(ref.path())
        if session is not None and session.lost is None:
            logger.info("lost (%s): %s", status, ref.path())
            session.lost = status
            session.engine.stop(ref.path())

    def _enter(self, ref: SessionRef, session: Session) -> None:
        self._running[ref.path()] = session
        self._by_key[keys.session(ref)] = ref.path()
        self._idle.clear()

    def _leave(self, path: str) -> None:
        session = self._running.pop(path, None)
        if session is None:
            return
        del self._by_key[keys.session(session.claim.ref)]
        if not self._running:
            self._idle.set()
        self._releases.put_nowait(session.claim.ref)
        self.on_slot_free()


def _call_soon(
    loop: asyncio.AbstractEventLoop,
    take: Callable[[Sequence[Step]], None],
    steps: Sequence[Step],
) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(take, steps)


def _sequence(ref: SessionRef, record: SessionRecord, request: GenerationRequest) -> SequenceSpec:
    return SequenceSpec(
        id=ref.path(),
        prompt=record.prompt,
        sampling=request.sampling,
        stop=request.stop,
        max_tokens=request.max_tokens,
    )


def _reason(finish: Finish) -> str:
    return Reason.LENGTH if finish.reason is FinishReason.LENGTH else Reason.STOP
