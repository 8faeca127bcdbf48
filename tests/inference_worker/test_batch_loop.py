import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from engine_recorder import Recorder, recording

from inference_worker.batch_loop import BatchEngine
from inference_worker.context_shift import Shift
from inference_worker.engine import (
    EngineFailed,
    FinishReason,
    NoFreeSlot,
    PromptInvalid,
    PromptTooLong,
    SequenceSpec,
    Step,
)
from inference_worker.model import Feed, SlotsExhausted
from inference_worker.scripted_engine import ScriptedModel, open_scripted_engine
from replay.request import SamplingParams

SLOTS = 3
CONTEXT_TOKENS = 4096


class GatedModel(ScriptedModel):
    """A scripted model whose decode calls a test can watch, hold back or break."""

    def __init__(self, *, batch_invariant: bool = True) -> None:
        info = open_scripted_engine(slots=SLOTS, context_tokens=CONTEXT_TOKENS).model
        super().__init__(replace(info, batch_invariant=batch_invariant), tokens_per_s=0)
        self.decodes: list[tuple[Feed, ...]] = []
        self.before_decode: Callable[[Sequence[Feed]], object] = lambda feeds: None
        self.interrupted = threading.Event()
        self.closed = False

    def decode(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        self.interrupted.clear()
        self.before_decode(feeds)
        self.decodes.append(tuple(feeds))
        return () if self.interrupted.is_set() else super().decode(feeds)

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def model() -> GatedModel:
    return GatedModel()


@pytest.fixture
def recorder(model: GatedModel) -> Iterator[Recorder]:
    with recording(BatchEngine(model)) as recorder:
        yield recorder


def spec(name: str, content: str = "hi", **options: Any) -> SequenceSpec:
    engine = open_scripted_engine()
    prompt = tuple(engine.prompt_tokens([{"role": "user", "content": content}]))
    return SequenceSpec(name, prompt, SamplingParams(seed=1), **options)


def reason(recorder: Recorder, name: str) -> FinishReason | None:
    finish = recorder.finish(name)
    return finish.reason if finish else None


def test_a_submit_takes_its_slot_at_once_and_the_finish_gives_it_back() -> None:
    engine = open_scripted_engine(slots=2, tokens_per_s=0)
    engine.submit(spec("a"))
    assert engine.free_slots == 1
    free_at_finish = []
    finished = threading.Event()

    def on_steps(steps: Sequence[Step]) -> None:
        if any(step.finish for step in steps):
            free_at_finish.append(engine.free_slots)
            finished.set()

    engine.start(on_steps)
    assert finished.wait(10)
    engine.close()
    assert free_at_finish == [2]


@pytest.mark.parametrize(("invariant", "steps"), [(True, 3), (False, 1)])
def test_short_prompts_share_a_decode_only_where_that_changes_nothing(
    invariant: bool, steps: int
) -> None:
    model = GatedModel(batch_invariant=invariant)
    engine = BatchEngine(model)
    for name in "abc":
        engine.submit(spec(name, max_tokens=3))
    with recording(engine) as recorder:
        recorder.wait_finished(*"abc")
        texts = {recorder.text(name) for name in "abc"}
    prompts = [feeds for feeds in model.decodes if len(feeds[0].tokens) > 1]
    assert len(prompts) == steps
    assert [feed.slot for feeds in prompts for feed in feeds] == [0, 1, 2]
    assert len(texts) == 1, "each says what it says alone"


def test_what_cannot_run_is_refused_before_it_takes_a_slot() -> None:
    engine = open_scripted_engine(slots=1, context_tokens=50)
    with pytest.raises(PromptTooLong, match=r"request \(50 tokens\) exceeds") as refused:
        engine.submit(SequenceSpec("a", (65,) * 50, SamplingParams(seed=1)))
    assert (refused.value.tokens, refused.value.context_tokens) == (50, 50)
    with pytest.raises(PromptInvalid):
        engine.submit(SequenceSpec("a", (), SamplingParams(seed=1)))
    assert engine.free_slots == 1
    engine.submit(spec("a"))
    with pytest.raises(ValueError, match="has not finished"):
        engine.submit(spec("a"))
    with pytest.raises(NoFreeSlot, match="all 1 slots"):
        engine.submit(spec("b"))
    engine.close()


def test_a_stop_while_an_answer_is_computed_allows_no_further_token(
    model: GatedModel, recorder: Recorder
) -> None:
    held, go = threading.Event(), threading.Event()

    def hold(feeds: Sequence[Feed]) -> None:
        if len(model.decodes) == 20:
            held.set()
            assert go.wait(10)

    model.before_decode = hold
    recorder.engine.submit(spec("a"))
    assert held.wait(10)
    sampled = len(recorder.tokens("a"))
    recorder.engine.stop("a")
    go.set()
    recorder.wait_finished("a")
    assert (len(recorder.tokens("a")), reason(recorder, "a")) == (sampled, FinishReason.STOPPED)
    assert recorder.engine.free_slots == SLOTS


def test_a_stop_interrupts_the_chunk_of_its_prompt(model: GatedModel, recorder: Recorder) -> None:
    feeding = threading.Event()

    def hold(feeds: Sequence[Feed]) -> None:
        if len(model.decodes) == 2:
            feeding.set()
            assert model.interrupted.wait(10)

    model.before_decode = hold
    recorder.engine.submit(spec("a", "x" * 2000))
    assert feeding.wait(10)
    recorder.engine.stop("a")
    recorder.wait_finished("a")
    assert len(model.decodes) == 3
    assert (recorder.tokens("a"), reason(recorder, "a")) == ((), FinishReason.STOPPED)
    assert recorder.steps("a")[-1].prompt_tokens_done == 256


@pytest.mark.parametrize("stopped", ["a", "waits"])
def test_a_stop_interrupts_nothing_that_others_are_in(
    model: GatedModel, recorder: Recorder, stopped: str
) -> None:
    both, held, go = threading.Event(), threading.Event(), threading.Event()

    def hold(feeds: Sequence[Feed]) -> None:
        assert both.wait(10)
        if len(feeds) == 2 and not held.is_set():
            held.set()
            assert go.wait(10)

    model.before_decode = hold
    for name in ("a", "b"):
        recorder.engine.submit(spec(name))
    both.set()
    assert held.wait(10)
    recorder.engine.submit(spec("waits"))
    recorder.engine.stop(stopped)
    assert not model.interrupted.is_set()
    go.set()
    recorder.wait_finished("a", "b", "waits")
    assert reason(recorder, stopped) is FinishReason.STOPPED
    assert reason(recorder, "b") is FinishReason.STOP


def test_stopping_what_is_unknown_or_over_does_nothing(recorder: Recorder) -> None:
    recorder.run(spec("a"))
    recorder.engine.stop("a")
    recorder.engine.stop("never")
    recorder.run(spec("a"))
    assert reason(recorder, "a") is FinishReason.STOP


def test_a_prompt_and_running_answers_never_share_a_decode_call(
    model: GatedModel, recorder: Recorder
) -> None:
    recorder.run(spec("a"), spec("long", "x" * 2000), spec("b"))
    mixed = [
        feeds for feeds in model.decodes if len(feeds) > 1 and any(len(f.tokens) > 1 for f in feeds)
    ]
    assert mixed == []


def test_a_long_prompt_stalls_a_running_answer_for_one_chunk_at_most(
    model: GatedModel, recorder: Recorder
) -> None:
    both_run = threading.Event()
    model.before_decode = lambda feeds: both_run.wait(60) if len(model.decodes) > 10 else None
    recorder.engine.submit(spec("a", "hi [[tokens=400]]"))
    recorder.wait_for(lambda: len(recorder.tokens("a")) > 5)
    recorder.engine.submit(spec("long", "x" * 2000))
    both_run.set()
    recorder.wait_finished("a", "long")
    chunks = [any(len(feed.tokens) > 1 for feed in feeds) for feeds in model.decodes[1:]]
    last_of_a = max(i for i, feeds in enumerate(model.decodes[1:]) if feeds[0].slot == 0)
    assert sum(chunks) >= 15
    assert not any(one and other for one, other in pairwise(chunks[:last_of_a]))


def test_no_room_in_the_cache_fails_the_longest_and_spares_the_others(
    model: GatedModel, recorder: Recorder
) -> None:
    def refuse_three(feeds: Sequence[Feed]) -> None:
        if len(feeds) == 3:
            raise SlotsExhausted("Context size has been exceeded.")

    model.before_decode = refuse_three
    recorder.run(spec("a"), spec("long", "x" * 500), spec("b"))
    finish = recorder.finish("long")
    assert finish is not None
    assert (finish.reason, finish.error) == (
        FinishReason.FAILED,
        "Context size has been exceeded.",
    )
    assert reason(recorder, "a") is reason(recorder, "b") is FinishReason.STOP


def test_an_idle_cache_makes_room_before_anybody_fails(
    model: GatedModel, recorder: Recorder
) -> None:
    idle = replace(spec("idle"), prompt=(65,) * 300)
    recorder.run(idle)
    trimmed: list[tuple[int, int]] = []
    trim = model.trim

    def watched(slot: int, tokens: int) -> int:
        trimmed.append((slot, tokens))
        return trim(slot, tokens)

    model.trim = watched  # type: ignore[method-assign]

    def refuse_until_there_is_room(feeds: Sequence[Feed]) -> None:
        if (0, 0) not in trimmed:
            raise SlotsExhausted("Context size has been exceeded.")

    model.before_decode = refuse_until_there_is_room
    recorder.run(spec("a"), spec("b"))
    assert reason(recorder, "a") is reason(recorder, "b") is FinishReason.STOP
    recorder.run(idle)
    assert cached(recorder, "idle") == (0, 300)


def test_who_breaks_a_shared_decode_fails_alone(model: GatedModel, recorder: Recorder) -> None:
    alone = recorder.run(spec("a"), spec("b"))
    broken: list[int] = []

    def break_down(feeds: Sequence[Feed]) -> None:
        if any(feed.slot == 1 and feed.position > 40 for feed in feeds):
            broken.append(len(feeds))
            raise RuntimeError("the decode broke")

    model.before_decode = break_down
    one, _, other = recorder.run(spec("a"), spec("bad"), spec("b"))
    bad = recorder.finish("bad")
    assert broken == [3, 1]
    assert bad is not None
    assert (bad.reason, bad.error) == (FinishReason.FAILED, "the decode broke")
    assert [one, other] == alone


def test_a_session_that_shifts_needs_the_context_that_it_began_in(recorder: Recorder) -> None:
    with pytest.raises(EngineFailed, match="needs a context of 5000 tokens"):
        recorder.engine.submit(replace(spec("a"), shift=Shift(CONTEXT_TOKENS + 904)))
    assert recorder.engine.free_slots == SLOTS


def test_a_sequence_whose_slot_does_not_open_fails_alone(
    model: GatedModel, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = model.open_slot

    def refuse(slot: int, spec: SequenceSpec, *, accepted: int) -> None:
        if spec.id == "bad":
            raise RuntimeError("no sampler")
        opened(slot, spec, accepted=accepted)

    monkeypatch.setattr(model, "open_slot", refuse)
    recorder.run(spec("bad"), spec("good"))
    assert reason(recorder, "bad") is FinishReason.FAILED
    assert reason(recorder, "good") is FinishReason.STOP
    assert recorder.engine.free_slots == SLOTS


def chunks(model: GatedModel) -> list[tuple[int, int]]:
    """Where each prompt chunk that was fed began, and how long it was."""
    fed = [feed for feeds in model.decodes for feed in feeds]
    return [(feed.position, len(feed.tokens)) for feed in fed if len(feed.tokens) > 1]


def cached(recorder: Recorder, name: str) -> tuple[int, int]:
    """How many of a prompt's tokens were there, and how many were fed."""
    timings = recorder.steps(name)[-1].timings
    assert timings is not None
    return timings.cache_n, timings.prompt_n


def test_a_next_turn_begins_with_the_chunks_that_its_slot_holds(
    model: GatedModel, recorder: Recorder
) -> None:
    first = replace(spec("a"), prompt=(65,) * 300)
    other = replace(spec("b"), prompt=(66,) * 300)
    recorder.run(first, other)
    model.decodes.clear()
    recorder.run(replace(first, prompt=(65,) * 300 + (67,) * 100))
    assert (chunks(model), cached(recorder, "a")) == ([(256, 128), (384, 16)], (256, 144))
    assert recorder.steps("a")[0].prompt_tokens_done == 384


def test_a_prompt_that_is_all_there_is_fed_its_last_chunk_again(
    model: GatedModel, recorder: Recorder
) -> None:
    for length, again in ((300, (256, 44)), (256, (128, 128))):
        one = replace(spec("a"), prompt=(length,) * length)
        whole = recorder.run(one)
        model.decodes.clear()
        assert recorder.run(one) == whole
        assert chunks(model) == [again]


def test_a_stopped_prompt_leaves_the_chunks_that_were_fed(
    model: GatedModel, recorder: Recorder
) -> None:
    one = replace(spec("a"), prompt=(65,) * 1000)
    model.before_decode = lambda feeds: len(model.decodes) == 3 and recorder.engine.stop("a")
    recorder.run(one)
    assert reason(recorder, "a") is FinishReason.STOPPED
    model.before_decode = lambda feeds: None
    recorder.run(one)
    assert cached(recorder, "a") == (384, 616)


@pytest.mark.parametrize(
    "option", [{"cache_prompt": False}, {"prefill_chunk_tokens": 64}], ids=["unwanted", "other"]
)
def test_nothing_is_reused_where_it_is_unwanted_or_was_computed_in_other_chunks(
    recorder: Recorder, option: dict[str, Any]
) -> None:
    one = replace(spec("a"), prompt=(65,) * 300)
    recorder.run(one)
    recorder.run(replace(one, **option))
    assert cached(recorder, "a") == (0, 300)


def test_a_prompt_is_fed_as_its_record_says(model: GatedModel, recorder: Recorder) -> None:
    recorder.run(replace(spec("a"), prompt=(65,) * 150, prefill_chunk_tokens=64))
    assert chunks(model) == [(0, 64), (64, 64), (128, 22)]


def test_a_cache_that_refuses_to_be_cut_is_filled_from_the_start(
    model: GatedModel, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(spec("a"), prompt=(65,) * 300)
    whole = recorder.run(one)
    monkeypatch.setattr(model, "trim", lambda slot, tokens: 0)
    model.decodes.clear()
    assert recorder.run(one) == whole
    assert (chunks(model), cached(recorder, "a")) == ([(0, 128), (128, 128), (256, 44)], (0, 300))


def test_what_failed_leaves_nothing_in_its_slot(model: GatedModel, recorder: Recorder) -> None:
    def break_down(feeds: Sequence[Feed]) -> None:
        if feeds[0].position == 256:
            raise RuntimeError("the decode broke")

    one = replace(spec("a"), prompt=(65,) * 300)
    model.before_decode = break_down
    recorder.run(one)
    assert reason(recorder, "a") is FinishReason.FAILED
    model.before_decode = lambda feeds: None
    recorder.run(one)
    assert cached(recorder, "a") == (0, 300)


def told(recorder: Recorder, name: str) -> list[list[int]]:
    """The tokens whose probabilities each of a sequence's steps told."""
    return [[one.chosen.token for one in step.logprobs] for step in recorder.steps(name)]


def pieces(recorder: Recorder, tokens: Sequence[int]) -> bytes:
    return b"".join(map(recorder.engine.piece, tokens))


PROBABLE = SamplingParams(seed=1, logprobs=True, n_probs=1)
HOLDS = ("w0009 x", "never")
"""Stop strings that hold text back and never come up."""


def test_probabilities_come_with_the_text_that_they_are_of(recorder: Recorder) -> None:
    recorder.run(replace(spec("a", stop=HOLDS), sampling=PROBABLE))
    steps = recorder.steps("a")
    assert any(step.tokens and not step.text for step in steps), "nothing was held back"
    assert not any(step.logprobs and not step.text for step in steps)
    whole = [token for tokens in told(recorder, "a") for token in tokens]
    assert pieces(recorder, whole).decode() == recorder.text("a")


def test_what_a_stop_string_hides_tells_no_probabilities(recorder: Recorder) -> None:
    recorder.run(replace(spec("a", stop=("w0003 w0004",)), sampling=PROBABLE))
    tokens = [token for tokens in told(recorder, "a") for token in tokens]
    # Of the token that begins the stop string, the space before it is shown.
    assert pieces(recorder, tokens).decode() == recorder.text("a") + "w"


def test_a_takeover_after_any_token_tells_the_probabilities_that_are_still_to_be_told(
    recorder: Recorder,
) -> None:
    one = replace(spec("a", "hi [[tokens=60]]", stop=HOLDS), sampling=PROBABLE)
    [whole] = recorder.run(one)
    steps = [step for step in recorder.steps("a") if step.tokens]
    assert len(steps) == len(whole)
    for cut in range(1, len(whole) - 1):
        before = sum((step.logprobs for step in steps[:cut]), ())
        recorder.run(replace(one, sampled=whole[:cut]))
        after = sum((step.logprobs for step in recorder.steps("a")), ())
        assert before + after == sum((step.logprobs for step in steps), ())


def test_a_sampler_with_a_state_draws_all_of_an_earlier_attempt_again(
    recorder: Recorder, model: GatedModel
) -> None:
    [whole] = recorder.run(spec("a"))
    for sampling, drawn in ((SamplingParams(seed=1, mirostat=2), 10), (SamplingParams(seed=1), 0)):
        model.decodes.clear()
        [rest] = recorder.run(replace(spec("a"), sampling=sampling, sampled=whole[:10]))
        assert whole[:10] + rest == whole
        logits = sum(feed.samples for feeds in model.decodes for feed in feeds)
        assert logits == drawn + len(rest)


def test_a_stop_string_across_tokens_ends_the_answer_before_it(recorder: Recorder) -> None:
    recorder.run(spec("a", stop=("w0003 w0004",)))
    finish = recorder.finish("a")
    assert finish is not None
    assert (finish.reason, finish.stopping_word) == (FinishReason.STOP, "w0003 w0004")
    assert "w0002" in recorder.text("a")
    assert "w0003" not in recorder.text("a")


def test_progress_is_told_for_each_chunk_and_timings_with_the_tokens(recorder: Recorder) -> None:
    recorder.run(spec("a", "x" * 290))
    total = len(spec("a", "x" * 290).prompt)
    steps = recorder.steps("a")
    assert [step.prompt_tokens_done for step in steps[:3]] == [128, 256, total]
    assert steps[0].timings is None
    last = steps[-1].timings
    assert last is not None
    assert (last.prompt_n, last.predicted_n) == (total, 120)


def test_closing_ends_what_runs_as_stopped_and_refuses_more(model: GatedModel) -> None:
    engine = BatchEngine(model)
    with recording(engine) as recorder:
        engine.submit(spec("a", "hi [[tokens=100000 rate=5]]"))
        recorder.wait_for(lambda: bool(recorder.tokens("a")))
    assert reason(recorder, "a") is FinishReason.STOPPED
    assert model.closed
    assert engine.free_slots == 0
    with pytest.raises(EngineFailed, match="closed"):
        engine.submit(spec("b"))
    engine.close()


def test_an_engine_that_never_started_closes_too(model: GatedModel) -> None:
    BatchEngine(model).close()
    assert model.closed


def test_a_dead_loop_refuses_further_work(model: GatedModel) -> None:
    engine = BatchEngine(model)

    def break_down(steps: Sequence[Step]) -> None:
        raise RuntimeError("the listener broke")

    engine.start(break_down)
    engine.submit(spec("a"))
    ended = threading.Event()
    threading.Thread(target=lambda: (_thread_of(engine).join(10), ended.set())).start()
    assert ended.wait(10)
    assert engine.free_slots == 0
    with pytest.raises(EngineFailed, match="the listener broke"):
        engine.submit(spec("b"))
    engine.close()


def test_a_dead_loop_lets_nobody_wait_whatever_else_broke(
    model: GatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, heard = BatchEngine(model), queue.SimpleQueue[BaseException | None]()

    def embed() -> None:
        try:
            engine.embed([[1]])
        except EngineFailed as error:
            heard.put(error)

    def break_down(steps: Sequence[Step]) -> None:
        monkeypatch.setattr(model, "close_slot", lambda slot: 1 / 0)
        threading.Thread(target=embed, daemon=True).start()
        while engine._commands.empty():
            time.sleep(0.001)
        raise RuntimeError("the listener broke")

    engine.start(break_down)
    engine.submit(spec("a"))
    assert "the listener broke" in str(heard.get(timeout=10))
    assert "the listener broke" in engine.failure
    engine.close()
    assert engine.failure == ""


def _thread_of(engine: BatchEngine) -> threading.Thread:
    assert engine._thread is not None
    return engine._thread
