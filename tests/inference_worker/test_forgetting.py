"""A log that forgets its last moments, workers that die and wake: no reader is spliced in silence.

Real producers and real readers over the log in memory, driven step by step by a seed. What a worker
makes is random, so that whatever is made twice differs, and an adversary lets the log forget soon
after claims. A takeover that was settled is on disk and is never forgotten.
"""

from __future__ import annotations

import asyncio
import copy
import math
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from log_harness import new_session

from inference_worker.outlet import Outlet
from inference_worker.producer import Producer, stored_chunks
from replay.errors import ReplayError
from replay.identity import SessionRef
from replay.log_values import AppendStatus, Claim, ClaimStatus
from replay.memory_log import MemoryLog
from replay.memory_state import MemoryState
from replay.records import Chunk, State, Token, unpack_tokens
from replay.subscription import OnMessage, OnReset
from replay.tailer import Tailer

LEASE_S = 1.0
STEP_MS = 100
STEPS = 120
FORGETS_STEPS = 10
WORKERS = 3
READERS = 4
SEEDS = 150


class ForgetfulLog(MemoryLog):
    """A log that can go back to what it was some steps ago."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000
        self.resets: list[OnReset] = []
        self.memories: list[Any] = []
        super().__init__(lambda: self.now_ms)

    def remember(self) -> None:
        """Notes what it is now; only the last few moments can be forgotten."""
        held = (self._routes, self._sessions, self._stopped, self._watched)
        self.memories = [*self.memories, copy.deepcopy(held)][-FORGETS_STEPS:]

    def forget(self, steps: int) -> None:
        """Is what it was so many steps ago, and another start of itself."""
        del self.memories[max(1, len(self.memories) - steps) :]
        held = copy.deepcopy(self.memories[-1])
        self._routes, self._sessions, self._stopped, self._watched = held
        self.run += "+"
        for reset in self.resets:
            reset()

    async def settle(self, claims: Any, lease_s: float) -> Any:
        """What was written is on disk from here on."""
        statuses = await self.renew(claims, lease_s)
        self.memories.clear()
        self.remember()
        return statuses

    @asynccontextmanager
    async def channels(self, on_message: OnMessage, on_reset: OnReset) -> AsyncIterator[Any]:
        self.resets.append(on_reset)
        async with super().channels(on_message, on_reset) as opened:
            yield opened


class SimulatedWorker:
    """A worker without an engine: what it "samples" comes from the dice."""

    def __init__(self, name: str, log: ForgetfulLog, dice: random.Random) -> None:
        self.name = name
        self.log = log
        self.dice = dice
        self.sleeps = 0
        self.reborn()

    def reborn(self) -> None:
        """Dies, and begins again with nothing."""
        self.producer = Producer(self.log, window_bytes=1 << 20, lease_s=LEASE_S)
        self.outlet: Outlet | None = None
        self.has_heard_stop = False

    def lost(self, status: AppendStatus) -> None:
        self.outlet = None

    async def claim(self, ref: SessionRef) -> Claim | None:
        """Takes the session if nobody has it."""
        nonce = self.dice.randbytes(4).hex()
        result = await self.log.claim(ref, worker=self.name, nonce=nonce, lease_s=LEASE_S)
        record = await self.log.record(ref)
        if result.status is not ClaimStatus.CLAIMED or record is None or result.claim is None:
            return None
        claim = result.claim
        self.outlet = Outlet(
            claim,
            record,
            body=[chunk async for chunk in stored_chunks(self.log, ref, 0)],
            tokens=unpack_tokens(await self.log.tokens(ref)),
            is_settled=claim.attempt == 1 and not result.doubtful,
            on_lost=self.lost,
        )
        self.producer.add(self.outlet)
        return claim

    async def act(self, ref: SessionRef) -> None:
        """One step of its life."""
        if self.sleeps:
            self.sleeps -= 1
            return
        if self.outlet is None:
            if self.dice.random() < 0.3:
                await self.claim(ref)
            return
        outlet = self.outlet
        if not outlet.is_settled and self.dice.random() < 0.4:
            (status,) = await self.log.settle([outlet.claim], LEASE_S)
            ours = self.producer.renewed(outlet.claim, status)
            if ours and status in (ClaimStatus.RENEWED, ClaimStatus.MOVED):
                self.producer.settle(outlet.claim)
        for _ in range(self.dice.randrange(3)):
            made = self.dice.randbytes(self.dice.randrange(1, 400)).hex().encode()
            outlet.put(made, [Token(self.dice.randrange(1000))])
        if self.dice.random() < 0.5:
            await self.producer.flush()
        if self.outlet is not None and self.dice.random() < 0.4:
            await self.renew(outlet.claim)

    async def renew(self, claim: Claim) -> None:
        (status,) = await self.log.renew([claim], LEASE_S)
        if not self.producer.renewed(claim, status):
            self.producer.drop_claim(claim)
            self.outlet = None


class SimulatedReader:
    """A client that counts its bytes, and begins again where it is told to."""

    def __init__(self, tailer: Tailer, ref: SessionRef) -> None:
        self.tailer = tailer
        self.ref = ref
        self.data = b""
        self.told = 0
        self.has_ended = False
        self.was_over = False  # whoever has all of it before the log forgets cannot be told
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        try:
            async with self.tailer.tail(self.ref, len(self.data)) as tail:
                async for item in tail:
                    if isinstance(item, Chunk):
                        self.data += item.data
            self.has_ended = True
        except ReplayError:
            self.told += 1
            self.data = b""

    async def again(self) -> None:
        """Hangs up, and comes back where it was."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if not self.has_ended:
            self.task = asyncio.create_task(self.read())


async def simulate(seed: int) -> tuple[int, int]:
    """How many readers were spliced in silence, and how often one was told."""
    dice, log = random.Random(seed), ForgetfulLog()
    async with AsyncExitStack() as stack:
        tailer = await stack.enter_async_context(Tailer(log, log.channels))
        ref = (await log.open(new_session("c"), arrived_ms=math.inf, nonce="o")).ref
        log.memories.clear()
        log.remember()
        workers = [SimulatedWorker(f"w{number}", log, dice) for number in range(WORKERS)]
        readers = [SimulatedReader(tailer, ref) for _ in range(READERS)]
        attempt = 0
        for _ in range(STEPS):
            log.now_ms += STEP_MS
            for worker in dice.sample(workers, WORKERS):
                await worker.act(ref)
                await asyncio.sleep(0)
            await mishap(dice, log, workers)
            attempt = await adversary(dice, log, ref, attempt)
            for reader in readers:
                reader.was_over |= reader.has_ended
            for reader in readers:
                if reader.task.done() or dice.random() < 0.1:
                    await reader.again()
            for _ in range(4):
                await asyncio.sleep(0)
            log.remember()
        await finish(log, ref, workers[0], readers)
        whole = b"".join([chunk.data async for chunk in stored_chunks(log, ref, 0)])
        spliced = [one for one in readers if not one.was_over and not whole.startswith(one.data)]
        return len(spliced), sum(reader.told for reader in readers)


async def mishap(dice: random.Random, log: ForgetfulLog, workers: list[SimulatedWorker]) -> None:
    """Perhaps a worker dies, or sleeps beyond its lease."""
    if dice.random() < 0.06:
        dice.choice(workers).reborn()
    if dice.random() < 0.06:
        dice.choice(workers).sleeps = dice.randrange(5, 30)
    if dice.random() < 0.02:
        log.forget(dice.randrange(1, FORGETS_STEPS))


async def adversary(dice: random.Random, log: ForgetfulLog, ref: SessionRef, attempt: int) -> int:
    """Lets the log forget soon after most claims; the attempt that was last seen."""
    record = await log.record(ref)
    assert record is not None
    if record.attempt > attempt and dice.random() < 0.15:
        log.forget(dice.randrange(1, FORGETS_STEPS))
    return record.attempt


async def finish(
    log: ForgetfulLog, ref: SessionRef, worker: SimulatedWorker, readers: list[SimulatedReader]
) -> None:
    """Some worker completes the answer, and everybody reads it to its end."""
    while True:
        log.now_ms += 10_000
        worker.reborn()
        record = await log.record(ref)
        if record is None or record.state.is_final:
            break
        if (claim := await worker.claim(ref)) is None:
            continue
        assert worker.outlet is not None
        worker.producer.settle(claim)
        worker.outlet.close(b"fin", (), State.COMPLETED, "stop")
        while worker.outlet is not None and worker.outlet.is_behind:
            await worker.producer.flush()
    async with asyncio.timeout(10):
        for reader in readers:
            while not reader.has_ended:
                await reader.again()
                await asyncio.wait([reader.task])


def test_no_reader_is_spliced_in_silence() -> None:
    outcomes = [asyncio.run(simulate(seed)) for seed in range(SEEDS)]
    assert [seed for seed, (spliced, _) in enumerate(outcomes) if spliced] == []
    assert sum(told for _, told in outcomes) > 0


def test_without_doubts_the_simulation_finds_splices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryState, "_mark_doubt", lambda *_: False)
    assert any(asyncio.run(simulate(seed))[0] for seed in range(SEEDS))
