"""One session at its worker: claimed once, produced exactly, let go of whatever happens."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cluster import text_of
from log_harness import body, claimed, new_session

from inference_worker import claims, generate, outlet, producer
from inference_worker.engine import (
    EngineFailed,
    Finish,
    FinishReason,
    NoFreeSlot,
    OnSteps,
    SequenceSpec,
    Step,
    ThoughtLimit,
    Timings,
)
from inference_worker.generate import Sessions
from inference_worker.producer import Producer
from inference_worker.rendering.openai_chat import ChatRenderer
from replay import keys
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.limits import PROGRESS_TOKENS
from replay.log_values import AppendResult, Claim, ClaimResult, ClaimStatus, ThoughtEnd
from replay.memory_log import MemoryLog
from replay.records import (
    TOKEN_CUT,
    TOKEN_FORCED,
    TOKEN_LAST,
    End,
    SessionRecord,
    State,
    Token,
    unpack_tokens,
)
from replay.request import (
    AnswerFormat,
    GenerationRequest,
    ReasoningParams,
    RenderOptions,
    SamplingParams,
)

pytestmark = pytest.mark.anyio
LIMIT_S = 30.0
TIMINGS = Timings(prompt_n=3, prompt_ms=1.0, predicted_n=1, predicted_ms=1.0)


class FaultyLog(MemoryLog):
    """Refuses as often as it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: dict[str, int] = {}
        self.nonces: list[str] = []
        self.renewed: list[list[SessionRef]] = []

    def _refuse(self, operation: str) -> None:
        if self.refuses.get(operation, 0) > 0:
            self.refuses[operation] -= 1
            raise LogUnavailable(operation)

    async def claim(self, ref: SessionRef, **more: Any) -> ClaimResult:
        self.nonces.append(more["nonce"])
        self._refuse("claim")
        result = await super().claim(ref, **more)
        self._refuse("claim's reply")
        return result

    async def record(self, ref: SessionRef) -> SessionRecord | None:
        self._refuse("record")
        return await super().record(ref)

    async def append(self, appends: Sequence[Any]) -> list[AppendResult | Exception]:
        self._refuse("append")
        return await super().append(appends)

    async def renew(self, claims: Sequence[Claim], lease_s: float) -> list[ClaimStatus | Exception]:
        self._refuse("renew")
        self.renewed.append([claim.ref for claim in claims])
        return await super().renew(claims, lease_s)


class Script:
    """An engine that does what the test says, on the test's own thread."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(name="m")
        self.free_slots = 8
        self.submitted: list[SequenceSpec] = []
        self.stopped: list[str] = []
        self.ordered: list[str] = []
        self.error: Exception | None = None
        self.on_steps: OnSteps = lambda steps: None

    def submit(self, spec: SequenceSpec) -> int:
        if self.error is not None:
            raise self.error
        self.submitted.append(spec)
        return len(self.submitted) - 1

    def piece(self, token: int) -> bytes:
        return f"<{token}>".encode()

    def stop(self, sequence_id: str) -> None:
        self.stopped.append(sequence_id)

    def say(
        self, sequence: str, text: str = "", *tokens: int, finish: FinishReason | None = None
    ) -> None:
        told = Finish(finish) if finish else None
        self.on_steps([Step(sequence, tokens, text, told, timings=TIMINGS)])

    def end_thought(self, sequence_id: str) -> None:
        self.ordered.append(sequence_id)

    def step(self, ref: SessionRef, text: str, *tokens: int) -> None:
        self.on_steps([Step(ref.path(), tokens, text, timings=TIMINGS)])

    def finish(
        self, ref: SessionRef, reason: FinishReason, text: str = "", *tokens: int, error: str = ""
    ) -> None:
        finish = Finish(reason, error=error)
        self.on_steps([Step(ref.path(), tokens, text, finish, timings=TIMINGS)])


class Desk:
    """The sessions of a worker, and all that they need."""

    def __init__(self, log: FaultyLog | None = None) -> None:
        self.log = log or FaultyLog()
        self.engine: Any = Script()
        self.producer = Producer(self.log, window_bytes=1 << 20, lease_s=60)
        self.released: list[SessionRef] = []
        self.release_fails = 0
        self.slots_freed = 0
        self.sessions = Sessions(self.log, self.producer, self._release, worker="w", lease_s=60)
        self.sessions.on_slot_free = self._freed
        self.engine.on_steps = self.sessions.steps_of(asyncio.get_running_loop())
        self.opened = 0

    async def _release(self, ref: SessionRef) -> None:
        if self.release_fails:
            self.release_fails -= 1
            raise LogUnavailable("release")
        self.released.append(ref)

    def _freed(self) -> None:
        self.slots_freed += 1

    async def open(self, name: str = "c", **more: Any) -> SessionRef:
        request = GenerationRequest(
            "openai.chat",
            "m",
            (),
            SamplingParams(seed=7),
            stop=("END",),
            max_tokens=9,
            render=RenderOptions(include_usage=True),
        )
        fields = {"request": request.to_json(), "ping_interval_s": -1, **more}
        self.opened += 1
        opened = await self.log.open(
            new_session(name, **fields), arrived_ms=math.inf, nonce=str(self.opened)
        )
        return opened.ref

    async def start(self, name: str = "c", **more: Any) -> SessionRef:
        ref = await self.open(name, **more)
        await self.sessions.start(self.engine, ref)
        return ref

    async def end(self, ref: SessionRef) -> End:
        async with asyncio.timeout(LIMIT_S):
            while True:
                page = await self.log.read(ref, 0)
                if page.end is not None:
                    return page.end
                await asyncio.sleep(0.001)  # the log tells nobody here

    async def stored(self, ref: SessionRef) -> None:
        """Until the log has bytes and the producer knows it."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                is_pending = any(outlet.pending for outlet in self.producer.outlets())
                if await body(self.log, ref) and not is_pending:
                    return
                await asyncio.sleep(0.001)  # the log tells nobody here

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.001)  # a task tells nobody


@asynccontextmanager
async def desks(log: FaultyLog | None = None) -> AsyncIterator[Desk]:
    one = Desk(log)
    tasks = [
        asyncio.create_task(one.producer.run()),
        asyncio.create_task(one.sessions.tell_releases()),
    ]
    try:
        yield one
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with desks() as one:
        yield one


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "CLAIM_RETRY_S", 0.001)
    monkeypatch.setattr(generate, "SETTLE_RETRY_S", 0.001)
    monkeypatch.setattr(producer, "RETRY_MIN_S", 0.001)


async def test_a_session_goes_from_the_record_to_the_engine_and_from_there_to_the_log(
    desk: Desk,
) -> None:
    ref = await desk.start()
    assert desk.engine.submitted == [
        SequenceSpec(
            ref.path(),
            (1, 70000, 3),
            SamplingParams(seed=7),
            stop=("END",),
            max_tokens=9,
            prefill_chunk_tokens=128,
        )
    ]
    desk.engine.step(ref, "Hel", 5)
    desk.engine.step(ref, "", 6)
    desk.engine.step(ref, "lo", 7)
    desk.engine.finish(ref, FinishReason.STOP, "!", 8)
    assert (await desk.end(ref)).reason == "stop"
    whole = await body(desk.log, ref)
    assert text_of(whole) == "Hello!"
    assert whole.endswith(b"data: [DONE]\n\n")
    assert b'"completion_tokens":4,"prompt_tokens":3' in whole
    record = await desk.log.record(ref)
    assert record is not None
    assert (record.state, record.worker, record.token_count) == (State.COMPLETED, "w", 4)
    await desk.until(lambda: desk.released == [ref])
    assert (len(desk.sessions), desk.slots_freed) == (0, 1)


def several(n: int) -> dict[str, str]:
    request = GenerationRequest(
        "openai.chat",
        "m",
        (),
        SamplingParams(seed=7),
        render=RenderOptions(include_usage=True),
        n=n,
    )
    return {"request": request.to_json()}


async def test_the_answers_of_one_session_are_told_in_one_log_as_they_come(desk: Desk) -> None:
    desk.engine.free_slots = 2
    ref = await desk.start(**several(3))
    first, second = (spec.id for spec in desk.engine.submitted)
    assert desk.sessions.room(desk.engine) == 1
    desk.engine.say(first, "a", 5)
    desk.engine.say(second, "b", 6, finish=FinishReason.LENGTH)
    desk.engine.say(first, "A", 7)
    await desk.until(lambda: len(desk.engine.submitted) == 3)
    third = desk.engine.submitted[2].id
    assert desk.sessions.room(desk.engine) == 2
    desk.engine.say(first, "!", 8, finish=FinishReason.STOP)
    desk.engine.say(third, "c", 9, finish=FinishReason.STOP)
    assert (await desk.end(ref)).reason == "length"
    whole = await body(desk.log, ref)
    told = [json.loads(frame[6:]) for frame in whole.split(b"\n\n")[:-2]]
    texts = dict.fromkeys(range(3), "")
    for choice in (choice for one in told for choice in one["choices"]):
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == {0: "aA!", 1: "b", 2: "c"}
    assert told[-1]["usage"]["completion_tokens"] == 5
    assert whole.count(b"[DONE]") == 1
    assert unpack_tokens(await desk.log.tokens(ref)) == [
        Token(5, 0),
        Token(6, 1, TOKEN_LAST | TOKEN_CUT),
        Token(7, 0),
        Token(8, 0, TOKEN_LAST),
        Token(9, 2),
    ]
    await desk.until(lambda: desk.released == [ref])
    assert len(desk.sessions) == 0


async def test_an_answer_that_fails_ends_all_of_its_session(desk: Desk) -> None:
    desk.engine.free_slots = 2
    ref = await desk.start(**several(3))
    first, second = (spec.id for spec in desk.engine.submitted)
    desk.engine.say(second, finish=FinishReason.FAILED)
    assert (await desk.end(ref)).reason == "engine"
    assert desk.engine.stopped == [first]
    desk.engine.say(first, finish=FinishReason.STOPPED)
    await desk.until(lambda: desk.released == [ref])
    assert len(desk.engine.submitted) == 2


async def test_a_stop_ends_all_answers_of_a_session(desk: Desk) -> None:
    desk.engine.free_slots = 2
    ref = await desk.start(**several(3))
    desk.sessions.stop(keys.session(ref))
    ids = [spec.id for spec in desk.engine.submitted]
    assert desk.engine.stopped == ids
    for one in ids:
        assert not desk.released
        desk.engine.say(one, finish=FinishReason.STOPPED)
        await asyncio.sleep(0)
    await desk.until(lambda: desk.released == [ref])
    assert len(desk.engine.submitted) == 2


async def test_an_answer_without_a_token_ends_with_the_others(desk: Desk) -> None:
    """No token could say that it has ended, so a takeover would tell it twice."""
    ref = await desk.start(**several(2))
    first, second = (spec.id for spec in desk.engine.submitted)
    desk.engine.say(first, finish=FinishReason.LENGTH)
    desk.engine.say(second, "b", 6)
    await desk.stored(ref)
    assert b'"finish_reason":"length"' not in await body(desk.log, ref)
    desk.engine.say(second, finish=FinishReason.STOP)
    await desk.end(ref)
    assert b'"finish_reason":"length"' in await body(desk.log, ref)


async def test_an_answer_whose_time_is_over_ends_by_its_length(desk: Desk) -> None:
    limited = json.loads(several(1)["request"])
    ref = await desk.start(request=json.dumps({**limited, "max_predict_ms": 1}))
    [spec] = desk.engine.submitted

    def step(text: str, token: int, ms: float, finish: Finish | None = None) -> None:
        timings = replace(TIMINGS, predicted_ms=ms)
        desk.engine.on_steps([Step(spec.id, (token,), text, finish, timings=timings)])
        return

    step("no line", 5, 100.0)
    step(" yet\n", 6, 1.0)
    await desk.stored(ref)
    assert desk.engine.stopped == []
    step("late", 7, 2.0)
    step("later", 8, 3.0)
    await desk.until(lambda: desk.engine.stopped == [spec.id])
    desk.engine.say(spec.id, "!", finish=FinishReason.STOPPED)
    assert (await desk.end(ref)).reason == "length"
    assert text_of(await body(desk.log, ref)) == "no line yet\nlatelater!"
    assert desk.engine.stopped == [spec.id]


async def test_an_answer_that_is_cut_short_says_length(desk: Desk) -> None:
    ref = await desk.start()
    desk.engine.finish(ref, FinishReason.LENGTH, "x", 5)
    assert await desk.end(ref) == End(State.COMPLETED, "length", len(await body(desk.log, ref)))


@pytest.mark.parametrize("operation", ["claim", "claim's reply"])
async def test_a_claim_is_asked_again_under_the_same_nonce(desk: Desk, operation: str) -> None:
    """A lost reply would else make the session held by ourselves."""
    desk.log.refuses[operation] = 3
    ref = await desk.start()
    assert len(desk.log.nonces) == 4
    assert len(set(desk.log.nonces)) == 1
    assert [spec.id for spec in desk.engine.submitted] == [ref.path()]
    record = await desk.log.record(ref)
    assert record is not None
    assert record.attempt == 1


async def test_every_claim_has_a_nonce_of_its_own(desk: Desk) -> None:
    for name in ("a", "b"):
        await desk.start(name)
    assert len(set(desk.log.nonces)) == 2


async def test_a_log_that_stays_away_loses_the_job_and_takes_no_slot(desk: Desk) -> None:
    desk.log.refuses["claim"] = 1000
    ref = await desk.start()
    assert len(desk.log.nonces) == claims.CLAIM_TRIES
    assert (desk.engine.submitted, len(desk.sessions)) == ([], 0)
    desk.log.refuses.clear()
    record = await desk.log.record(ref)
    assert record is not None
    assert record.state is State.QUEUED  # so that the sweeper can queue it again


async def test_a_record_that_cannot_be_read_at_once_costs_no_claimed_session(desk: Desk) -> None:
    desk.log.refuses["record"] = 1
    ref = await desk.open()
    try:
        await desk.sessions.start(desk.engine, ref)
    except LogUnavailable:
        pytest.fail("claimed, and left to its lease")
    assert [spec.id for spec in desk.engine.submitted] == [ref.path()]


@pytest.mark.parametrize("why", ["held", "stopped", "replaced", "gone"])
async def test_a_session_that_cannot_be_claimed_takes_no_slot(desk: Desk, why: str) -> None:
    ref = await desk.open()
    if why == "held":
        await desk.log.claim(ref, worker="other", nonce="x", lease_s=60)
    elif why == "stopped":
        await desk.log.stop("t", "c", epoch=None, keep=True, reason="client")
    elif why == "replaced":
        await desk.open()
    else:
        ref = SessionRef("t", "never", "m", 1)
    before = await body(desk.log, ref)
    await desk.sessions.start(desk.engine, ref)
    assert (desk.engine.submitted, len(desk.sessions), desk.producer.outlets()) == ([], 0, [])
    assert await body(desk.log, ref) == before
    assert (desk.released, desk.slots_freed) == ([], 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"dialect": "unknown"},
        {"request": "{}"},
        {"request": "no json"},
        {"request": "[]"},
        {"request": '{"dialect":"openai.chat","model":"m","messages":[],"sampling":{}}'},
    ],
    ids=["dialect", "empty request", "no request", "another request", "no seed"],
)
async def test_what_cannot_be_understood_ends_as_failed_engine(
    desk: Desk, fields: dict[str, str]
) -> None:
    ref = await desk.open(**fields)
    await desk.sessions.start(desk.engine, ref)
    assert (await desk.end(ref)).state is State.FAILED
    whole = await body(desk.log, ref)
    assert whole.startswith(b'data: {"error":{"code":500,')
    assert whole.endswith(b': end {"state":"failed","reason":"engine"}\n\n')
    await desk.until(lambda: desk.producer.outlets() == [])
    assert len(desk.sessions) == 0


@pytest.mark.parametrize(
    "error", [NoFreeSlot(8), EngineFailed("its thread died"), ValueError("has not finished")]
)
async def test_an_engine_that_refuses_ends_the_session_and_frees_its_slot(
    desk: Desk, error: Exception
) -> None:
    desk.engine.error = error
    ref = await desk.start()
    assert (await desk.end(ref)).reason == "engine"
    assert str(error).encode() in await body(desk.log, ref)
    await desk.until(lambda: desk.released == [ref])
    assert (len(desk.sessions), desk.slots_freed) == (0, 1)


async def test_an_engine_that_fails_in_the_middle_keeps_what_was_said(desk: Desk) -> None:
    ref = await desk.start()
    desk.engine.step(ref, "said", 5)
    desk.engine.finish(ref, FinishReason.FAILED, error="what broke")
    assert (await desk.end(ref)).reason == "engine"
    whole = await body(desk.log, ref)
    assert text_of(whole) == "said"
    assert b"what broke" in whole
    assert b"[DONE]" not in whole


async def test_a_stop_ends_the_sequence_once_and_adds_no_byte(desk: Desk) -> None:
    ref = await desk.start()
    desk.engine.step(ref, "said", 5)
    await desk.stored(ref)
    await desk.log.stop("t", "c", epoch=None, keep=True, reason="client")
    whole = await body(desk.log, ref)
    for _ in range(3):
        desk.sessions.stop(keys.session(ref))
    desk.sessions.stop("rc:{t:no}:never::m:1")
    assert desk.engine.stopped == [ref.path()]
    desk.engine.step(ref, " one more", 6)
    assert desk.released == []  # the slot is not free before the engine says so
    desk.engine.finish(ref, FinishReason.STOPPED)
    await desk.until(lambda: desk.released == [ref])
    assert await body(desk.log, ref) == whole
    assert (len(desk.sessions), desk.slots_freed) == (0, 1)


@pytest.mark.parametrize("ping_interval_s", [15, -1])
async def test_a_session_that_was_stopped_is_forgotten_with_all_its_bytes(
    desk: Desk, ping_interval_s: int
) -> None:
    """Everything was stored, so no append will ever tell the producer that it is over."""
    ref = await desk.start(ping_interval_s=ping_interval_s)
    desk.engine.step(ref, "said", 5)
    await desk.stored(ref)
    await desk.log.stop("t", "c", epoch=None, keep=True, reason="client")
    desk.sessions.stop(keys.session(ref))
    desk.engine.finish(ref, FinishReason.STOPPED)
    await desk.until(lambda: desk.released == [ref])
    for _ in range(10):
        desk.producer.wake()
        await asyncio.sleep(0)
    assert desk.producer.outlets() == []


async def test_an_append_that_is_refused_stops_the_sequence(desk: Desk) -> None:
    ref = await desk.start()
    await desk.log.stop("t", "c", epoch=None, keep=True, reason="client")  # nobody tells us
    desk.engine.step(ref, "too late", 5)
    await desk.until(lambda: desk.engine.stopped == [ref.path()])
    desk.engine.finish(ref, FinishReason.STOP)
    await desk.until(lambda: desk.released == [ref])
    assert b"too late" not in await body(desk.log, ref)


async def test_a_renewal_that_is_refused_stops_the_sequence(desk: Desk) -> None:
    desk.sessions._lease_s = 0.003
    keeping = asyncio.ensure_future(desk.sessions.keep_leases())
    try:
        ref, other = await desk.start(), await desk.start("d")
        await desk.until(lambda: [ref, other] in desk.log.renewed)
        await desk.log.stop("t", "c", epoch=None, keep=True, reason="client")
        await desk.until(lambda: desk.engine.stopped == [ref.path()])
        desk.log.refuses["renew"] = 3
        await desk.until(lambda: not desk.log.refuses["renew"])
        count = len(desk.log.renewed)
        await desk.until(lambda: len(desk.log.renewed) > count)
        assert desk.engine.stopped == [ref.path()]  # an outage stops nobody
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_steps_of_a_session_that_is_over_are_left_out(desk: Desk) -> None:
    ref = await desk.start()
    desk.engine.finish(ref, FinishReason.STOP, "all", 5)
    desk.engine.step(ref, "ghost", 6)
    desk.engine.step(SessionRef("t", "never", "m", 1), "ghost", 6)
    await desk.end(ref)
    assert text_of(await body(desk.log, ref)) == "all"


async def test_a_log_that_is_away_in_the_middle_costs_no_byte(desk: Desk) -> None:
    ref = await desk.start()
    for number in range(10):
        if number in (2, 6):
            desk.log.refuses["append"] = 4
        desk.engine.step(ref, str(number), number)
        await asyncio.sleep(0)
    desk.engine.finish(ref, FinishReason.STOP)
    await desk.end(ref)
    assert text_of(await body(desk.log, ref)) == "0123456789"


async def test_what_was_given_up_while_the_log_is_away_is_ended_once_it_is_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "BACKLOG_BYTES_MAX", 100)
    ref = await desk.start()
    desk.log.refuses["append"] = 1_000_000
    desk.engine.step(ref, "x" * 200, 5)
    await desk.until(lambda: desk.engine.stopped == [ref.path()])
    desk.engine.finish(ref, FinishReason.STOPPED)
    await desk.until(lambda: desk.slots_freed)
    desk.log.refuses["append"] = 0
    end = await desk.end(ref)
    assert (end.state, end.reason) == (State.FAILED, "storage")


async def test_a_release_that_cannot_be_told_ends_no_worker(desk: Desk) -> None:
    desk.release_fails = 1
    first, second = await desk.start("a"), await desk.start("b")
    desk.engine.finish(first, FinishReason.STOP)
    desk.engine.finish(second, FinishReason.STOP)
    await desk.until(lambda: desk.released == [second])


async def test_a_drain_waits_for_sessions_that_finish(desk: Desk) -> None:
    ref = await desk.start()
    draining = asyncio.ensure_future(desk.sessions.drain(LIMIT_S))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not draining.done()
    desk.engine.finish(ref, FinishReason.STOP)
    await draining
    assert (await desk.end(ref)).state is State.COMPLETED


async def test_what_a_drain_cannot_wait_for_is_handed_over(desk: Desk) -> None:
    ref = await desk.start()
    desk.engine.step(ref, "said", 5)
    await desk.sessions.drain(0.01)
    assert desk.engine.stopped == [ref.path()]
    record = await desk.log.record(ref)
    assert record is not None
    assert (record.state, record.dispatch, record.deaths) == (State.QUEUED, 2, 0)
    assert text_of(await body(desk.log, ref)) == "said"
    assert (await claimed(desk.log, ref, nonce="the next")).attempt == 2


async def test_a_drain_stores_what_has_just_been_finished(desk: Desk) -> None:
    """The engine is done, the log is slow: the bytes are not left behind."""
    ref = await desk.start()
    desk.log.refuses["append"] = 5
    desk.engine.finish(ref, FinishReason.STOP, "all", 5)
    await desk.until(lambda: len(desk.sessions) == 0)
    await desk.sessions.drain(LIMIT_S)
    assert (await desk.log.read(ref, 0)).end is not None


async def test_what_a_drain_cuts_short_is_not_complete_without_its_other_choices(
    desk: Desk,
) -> None:
    desk.engine.free_slots = 1  # the second choice waits for it
    ref = await desk.start(request=TWO_CHOICES)
    draining = asyncio.ensure_future(desk.sessions.drain(0))
    await desk.until(lambda: desk.engine.stopped)
    desk.engine.finish(ref, FinishReason.STOP, "all", 5)  # it was on its way
    await draining
    record = await desk.log.record(ref)
    assert record is not None
    assert record.state is State.QUEUED
    assert unpack_tokens(await desk.log.tokens(ref)) == [Token(5, flags=TOKEN_LAST)]
    async with desks(desk.log) as another:
        await another.sessions.start(another.engine, ref)
        assert [spec.id for spec in another.engine.submitted] == [f"{ref.path()} 1"]


async def test_a_slot_is_kept_for_the_session_that_is_being_claimed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = replace(GenerationRequest.from_json(TWO_CHOICES), n=3).to_json()
    desk.engine.free_slots = 1
    ref = await desk.start(request=three)
    other, may_claim = await desk.open("d"), asyncio.Event()
    claim = desk.log.claim

    async def slow_claim(ref: SessionRef, **more: Any) -> ClaimResult:
        await may_claim.wait()
        return await claim(ref, **more)

    monkeypatch.setattr(desk.log, "claim", slow_claim)
    starting = asyncio.ensure_future(desk.sessions.start(desk.engine, other))
    await asyncio.sleep(0)
    desk.engine.free_slots = 2
    desk.engine.finish(ref, FinishReason.STOP, "one", 5)
    await desk.until(lambda: len(desk.engine.submitted) > 1)
    may_claim.set()
    await starting
    ids = [spec.id for spec in desk.engine.submitted]
    assert ids == [ref.path(), f"{ref.path()} 1", other.path()]


async def test_a_session_that_is_still_being_stopped_is_not_started_again(desk: Desk) -> None:
    ref = await desk.start()
    [claim] = desk.producer.claims()
    await desk.log.hand_over(claim)
    await desk.log.claim(ref, worker="another", nonce="its", lease_s=-1)
    desk.engine.step(ref, "too late", 5)
    await desk.until(lambda: desk.engine.stopped)
    await desk.sessions.start(desk.engine, ref)
    assert len(desk.engine.submitted) == 1
    desk.engine.finish(ref, FinishReason.STOPPED)
    await desk.until(lambda: desk.released == [ref])
    await desk.sessions.start(desk.engine, ref)
    assert len(desk.engine.submitted) == 2


async def test_an_answer_that_cannot_be_rendered_ends_its_own_session_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, other = await desk.start("a"), await desk.start("b")
    render = ChatRenderer.step

    def broken(self: ChatRenderer, text: str, **more: Any) -> bytes:
        if text == "bad":
            raise RecursionError("too deep")
        return render(self, text, **more)

    monkeypatch.setattr(ChatRenderer, "step", broken)
    desk.engine.on_steps(
        [
            Step(ref.path(), (5,), "bad", timings=TIMINGS),
            Step(other.path(), (6,), "well", timings=TIMINGS),
        ]
    )
    assert (await desk.end(ref)).reason == "engine"
    assert desk.engine.stopped == [ref.path()]
    desk.engine.finish(ref, FinishReason.STOPPED, "bad")
    await desk.until(lambda: desk.released == [ref])
    desk.engine.finish(other, FinishReason.STOP)
    assert (await desk.end(other)).state is State.COMPLETED
    assert text_of(await body(desk.log, other)) == "well"


async def test_a_drain_of_nothing_is_over_at_once(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        await desk.sessions.drain(10 * LIMIT_S)


def test_steps_that_come_after_the_loop_has_ended_are_dropped() -> None:
    async def steps() -> OnSteps:
        return Desk().sessions.steps_of(asyncio.get_running_loop())

    asyncio.run(steps())([Step("x")])


async def suspect(desk: Desk, name: str) -> SessionRef:
    """A session that another worker died with, started here."""
    ref = await desk.open(name)
    await desk.log.claim(ref, worker="dead", nonce=name, lease_s=-1)
    look = await desk.log.look(ref.conversation)
    assert look is not None
    await desk.log.requeue(look)
    await desk.sessions.start(desk.engine, ref)
    return ref


async def test_suspects_are_claimed_at_once_and_enter_one_by_one(desk: Desk) -> None:
    first, second = [await suspect(desk, name) for name in ("a", "b")]
    assert (len(desk.sessions), desk.engine.submitted) == (2, [])
    assert desk.sessions.room(desk.engine) == desk.engine.free_slots - 2
    trying = asyncio.create_task(desk.sessions.try_suspects())
    await desk.until(lambda: [spec.id for spec in desk.engine.submitted] == [first.path()])
    for claim in desk.producer.claims():
        desk.producer.settle(claim)
    desk.engine.step(first, "x", *range(PROGRESS_TOKENS))
    await desk.until(lambda: [spec.id for spec in desk.engine.submitted][1:] == [second.path()])
    record = await desk.log.record(first)
    assert record is not None
    assert (record.token_count, record.entered) == (PROGRESS_TOKENS, 2)
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)


async def test_a_stop_reaches_a_suspect_that_waits(desk: Desk) -> None:
    ref = await suspect(desk, "a")
    await desk.log.stop("t", "a", epoch=None, keep=True, reason="client")
    desk.sessions.stop(keys.session(ref))
    await desk.until(lambda: desk.released == [ref])
    assert (len(desk.sessions), desk.engine.submitted, desk.engine.stopped) == (0, [], [])
    assert desk.sessions.room(desk.engine) == desk.engine.free_slots


async def test_a_suspect_that_waits_is_handed_over_by_a_drain(desk: Desk) -> None:
    ref = await suspect(desk, "a")
    await desk.sessions.drain(0)
    record = await desk.log.record(ref)
    assert record is not None
    assert (record.state, record.deaths, record.hand_overs) == (State.QUEUED, 1, 1)


TWO_CHOICES = GenerationRequest("openai.chat", "m", (), SamplingParams(seed=7), n=2).to_json()


THINKING = GenerationRequest(
    "openai.chat",
    "m",
    (),
    SamplingParams(seed=7),
    format=AnswerFormat("<think>", "</think>", thought_closing=(5, 6)),
    reasoning=ReasoningParams(budget_tokens=3, is_controlled=True),
).to_json()


async def test_what_was_forced_is_marked_in_the_log_and_told_to_who_takes_over(desk: Desk) -> None:
    ref = await desk.start(request=THINKING)
    assert desk.engine.submitted[0].thought == ThoughtLimit(
        "<think>", "</think>", (5, 6), budget_tokens=3
    )
    desk.engine.on_steps([Step(ref.path(), (1,), "<think>so", timings=TIMINGS)])
    desk.engine.on_steps([Step(ref.path(), (5,), "</", timings=TIMINGS, is_forced=True)])
    await desk.sessions.drain(0)
    assert unpack_tokens(await desk.log.tokens(ref)) == [Token(1), Token(5, flags=TOKEN_FORCED)]
    async with desks(desk.log) as another:
        await another.sessions.start(another.engine, ref)
        [spec] = another.engine.submitted
        assert (spec.sampled, spec.forced) == ((1, 5), frozenset({1}))


async def test_an_order_reaches_a_session_that_runs_or_is_just_being_claimed(desk: Desk) -> None:
    ref = await desk.start(request=THINKING)
    desk.sessions.end_thought(keys.session(ref))
    assert desk.engine.ordered == [ref.path()]
    other = await desk.open("d", request=THINKING)
    desk.sessions.end_thought(keys.session(other))  # before this worker knows of it
    await desk.sessions.start(desk.engine, other)
    assert [spec.thought.is_over for spec in desk.engine.submitted] == [False, True]


async def test_an_order_stands_for_whoever_claims_the_session(desk: Desk) -> None:
    ref = await desk.open(request=THINKING, reasoning_control=True)
    assert await desk.log.end_thought(ref) is ThoughtEnd.ORDERED
    await desk.sessions.start(desk.engine, ref)
    assert desk.engine.submitted[0].thought.is_over
