import locale
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from engine_recorder import WAIT_S, Recorder, recording

from inference_worker.batch_loop import BatchEngine
from inference_worker.context_shift import Shift
from inference_worker.engine import (
    EngineFailed,
    FinishReason,
    PromptTooLong,
    SequenceSpec,
    ThoughtLimit,
)
from inference_worker.file_hash import file_sha256
from inference_worker.model import Feed
from replay.request import SamplingParams

llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")

SLOTS = 8
CONTEXT_TOKENS = 1024
GREEDY = SamplingParams(seed=1, temperature=0)
DRAWN = SamplingParams(seed=7, temperature=0.8)
PENALIZED = SamplingParams(seed=7, temperature=0.8, repeat_penalty=1.3, presence_penalty=0.5)
ANSWER_TOKENS = 16
CHUNK_TOKENS = 512
LENGTHS = (0, 1, 2, 64, 3, 20, 5, 8)


@pytest.fixture(scope="module")
def settings(model_file: Path) -> Any:
    # One thread: on a busy machine, two of them mostly wait for each other at llama.cpp's barriers.
    return llama_engine.LlamaSettings(
        model_file,
        "smollm2-135m-instruct",
        slots=SLOTS,
        context_tokens=CONTEXT_TOKENS,
        threads=1,
    )


@pytest.fixture(scope="module")
def recorder(settings: Any) -> Iterator[Recorder]:
    with recording(llama_engine.open_llama_engine(settings)) as recorder:
        yield recorder


@pytest.fixture
def large_chunks(settings: Any) -> Any:
    """Settings with which a whole prompt is one chunk: some seconds."""
    return replace(settings, slots=2, prefill_chunk_tokens=CHUNK_TOKENS)


def prompt_of(recorder: Recorder, content: str) -> tuple[int, ...]:
    return tuple(recorder.engine.prompt_tokens([{"role": "user", "content": content}]))


def prompts(recorder: Recorder) -> list[tuple[int, ...]]:
    """Eight prompts: of one chunk and of several, and past 512 tokens."""
    words = "He was a man of many parts. "
    return [prompt_of(recorder, f"Tale {n}. " + words * long) for n, long in enumerate(LENGTHS)]


def reason(recorder: Recorder, name: str) -> FinishReason | None:
    finish = recorder.finish(name)
    return finish.reason if finish else None


def spec(name: str, prompt: tuple[int, ...], **options: Any) -> SequenceSpec:
    return SequenceSpec(
        name, prompt, **{"sampling": GREEDY, "max_tokens": ANSWER_TOKENS, **options}
    )


def test_a_sequence_samples_among_seven_others_what_it_samples_alone(recorder: Recorder) -> None:
    specs = [spec(str(n), prompt) for n, prompt in enumerate(prompts(recorder))]
    together = recorder.run(*specs)
    for n in (0, 3, 5, 7):
        assert recorder.run(specs[n]) == [together[n]]


def test_neighbours_and_takeovers_change_no_probability(recorder: Recorder) -> None:
    # Past 256 tokens, where flash attention may divide the keys of a lone sequence.
    prompt = prompt_of(recorder, "A long tale. " + "He was a man of many parts. " * 32)
    one = spec("one", prompt, sampling=TOLD, max_tokens=8)
    beside = spec("beside", prompt_of(recorder, "A tale."), max_tokens=2 * ANSWER_TOKENS)
    _, together = recorder.run(beside, one)
    probabilities = told(recorder, "one")
    assert answer(recorder, one)[1:] == (together, probabilities)
    taken_over = replace(one, sampled=together[:3])
    assert answer(recorder, taken_over)[1:] == (together[3:], probabilities[3:])


@pytest.mark.parametrize(
    "sampling", [GREEDY, DRAWN, PENALIZED], ids=["greedy", "drawn", "penalized"]
)
def test_a_takeover_after_any_token_goes_on_as_it_would_have(
    recorder: Recorder, sampling: SamplingParams
) -> None:
    # Past 512 tokens llama.cpp may choose other kernels; the draws need no long prompt.
    prompt = prompts(recorder)[3 if sampling is GREEDY else 7]
    (whole,) = recorder.run(spec("one", prompt, sampling=sampling))
    cuts = [1, 7, len(whole) - 1, len(whole)]
    rests = recorder.run(
        *(spec(f"{k}", prompt, sampling=sampling, sampled=whole[:k]) for k in cuts)
    )
    assert [whole[:k] + rest for k, rest in zip(cuts, rests, strict=True)] == [whole] * len(cuts)


TOLD = SamplingParams(seed=1, temperature=0, logprobs=True, n_probs=2)


def answer(recorder: Recorder, one: SequenceSpec) -> tuple[int, tuple[int, ...], list[Any]]:
    """How many of its prompt's tokens were in a cache; its tokens, and their probabilities."""
    (tokens,) = recorder.run(one)
    timings = recorder.steps(one.id)[-1].timings
    assert timings is not None
    return timings.cache_n, tokens, told(recorder, one.id)


def told(recorder: Recorder, name: str) -> list[Any]:
    return [told for step in recorder.steps(name) for told in step.logprobs]


@pytest.mark.parametrize("refuses", [False, True], ids=["cut", "refused"])
def test_a_next_turn_says_with_its_slots_cache_what_it_says_without(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    cut = llama_engine.llama_cpp.llama_memory_seq_rm
    if refuses:
        monkeypatch.setattr(
            llama_engine.llama_cpp,
            "llama_memory_seq_rm",
            lambda memory, slot, first, last: first <= 0 and cut(memory, slot, first, last),
        )
    messages = [{"role": "user", "content": f"A tale. {refuses} " + "He was a man. " * 25}]
    first = tuple(recorder.engine.prompt_tokens(messages))
    recorder.run(spec("one", first, max_tokens=8))
    messages += [
        {"role": "assistant", "content": recorder.text("one")},
        {"role": "user", "content": "Go on. " + "And on. " * 20},
    ]
    prompt = tuple(recorder.engine.prompt_tokens(messages))
    one = spec("one", prompt, sampling=TOLD, max_tokens=8)
    with_cache, tokens, told = answer(recorder, one)
    assert with_cache == (0 if refuses else 128)
    assert answer(recorder, replace(one, cache_prompt=False)) == (0, tokens, told)
    taken_over = replace(one, sampled=tokens[:3], cache_prompt=False)
    assert recorder.run(taken_over) == [tokens[3:]]


@pytest.mark.parametrize("sampling", [PENALIZED, replace(DRAWN, mirostat=2)])
def test_a_thought_that_was_ended_early_is_gone_on_from_whoever_takes_over(
    recorder: Recorder, sampling: SamplingParams
) -> None:
    tokenize = recorder.engine.tokenize
    opened = tuple(tokenize("<think>", add_special=False, parse_special=True))
    closing = tuple(tokenize(" That is it.</think>", add_special=False, parse_special=True))
    prompt = prompt_of(recorder, "Why is the sky blue?") + opened
    limit = ThoughtLimit("<think>", "</think>", closing, is_open=True, budget_tokens=5)
    one = spec("one", prompt, sampling=sampling, max_tokens=20, thought=limit)
    (whole,) = recorder.run(one)
    flags = [step.is_forced for step in recorder.steps("one") for _ in step.tokens]
    end = 5 + len(closing)
    assert whole[5:end] == closing and recorder.text("one").count("</think>") == 1
    assert [index for index, is_forced in enumerate(flags) if is_forced] == [*range(5, end)]
    cuts = [5, 7, end - 1, end]
    again = [
        replace(one, id=f"{k}", sampled=whole[:k], forced=frozenset(range(5, min(k, end))))
        for k in cuts
    ]
    rests = recorder.run(*again)
    assert [whole[:k] + rest for k, rest in zip(cuts, rests, strict=True)] == [whole] * len(cuts)


def test_a_takeover_shows_the_rest_of_the_text_and_no_more(recorder: Recorder) -> None:
    prompt = prompt_of(recorder, "Tell me about Paris.")
    (whole,) = recorder.run(spec("one", prompt))
    text = recorder.text("one")
    recorder.run(spec("one", prompt, sampled=whole[:10]))
    rest = recorder.text("one")
    assert rest
    assert len(rest) < len(text)
    assert text.endswith(rest)


def test_the_same_seed_draws_the_same_and_another_one_does_not(recorder: Recorder) -> None:
    prompt = prompt_of(recorder, "Write a poem.")
    other = SamplingParams(seed=8, temperature=0.8)
    one, two, three = recorder.run(
        spec("1", prompt, sampling=DRAWN),
        spec("2", prompt, sampling=DRAWN),
        spec("3", prompt, sampling=other),
    )
    assert one == two != three


def test_the_answer_makes_sense(recorder: Recorder) -> None:
    recorder.run(spec("one", prompt_of(recorder, "Tell me about Paris.")))
    assert "Paris" in recorder.text("one")
    assert "<|im_" not in recorder.text("one")


def test_an_end_token_is_told_but_not_shown_and_ignoring_it_goes_on(recorder: Recorder) -> None:
    prompt = prompt_of(recorder, "Say only: yes")
    (ended,) = recorder.run(spec("one", prompt, max_tokens=300))
    end = recorder.engine.tokenize("<|im_end|>", add_special=False, parse_special=True)
    assert list(ended[-1:]) == end
    assert "<|im_end|>" not in recorder.text("one")
    ignoring = SamplingParams(seed=1, temperature=0, ignore_eos=True)
    limit = len(ended) + 5
    (longer,) = recorder.run(spec("one", prompt, sampling=ignoring, max_tokens=limit))
    assert (len(longer), end[0] in longer) == (limit, False)


def test_a_full_context_ends_the_answer_as_length(recorder: Recorder) -> None:
    prompt = (recorder.engine.tokenize("a b c d", add_special=False, parse_special=False) * 300)[
        : CONTEXT_TOKENS - 5
    ]
    ignoring = SamplingParams(seed=1, temperature=0, ignore_eos=True)
    (tokens,) = recorder.run(spec("one", tuple(prompt), sampling=ignoring, max_tokens=-1))
    finish = recorder.finish("one")
    assert finish is not None
    assert (len(tokens), finish.reason, finish.context_full) == (5, FinishReason.LENGTH, True)


def test_no_tokens_allowed_samples_none(recorder: Recorder) -> None:
    assert recorder.run(spec("one", prompt_of(recorder, "hi"), max_tokens=0)) == [()]


class WatchedModel(llama_engine.LlamaModel):
    """One that tells when it begins to feed a prompt."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.feeds_prompt = threading.Event()

    def decode(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        if len(feeds[0].tokens) > 64:
            self.feeds_prompt.set()
        return super().decode(feeds)


def test_a_prompt_is_stopped_in_the_middle_of_its_chunk(large_chunks: Any) -> None:
    model = WatchedModel(large_chunks)
    with recording(BatchEngine(model, prefill_chunk_tokens=CHUNK_TOKENS)) as recorder:
        answer = spec("answer", prompt_of(recorder, "Tell me about Paris."), max_tokens=60)
        long = tuple(recorder.engine.tokenize("so " * 500, add_special=True, parse_special=True))
        (alone,) = recorder.run(answer)
        recorder.calls.clear()
        recorder.engine.submit(answer)
        for name in ("one", "two", "three"):
            model.feeds_prompt.clear()
            recorder.engine.submit(spec(name, long))
            assert model.feeds_prompt.wait(WAIT_S)
            while not recorder.finish(name):
                recorder.engine.stop(name)
                time.sleep(0.001)  # the first one may come just before the chunk begins
            (step,) = recorder.steps(name)
            assert (step.prompt_tokens_done, reason(recorder, name)) == (0, FinishReason.STOPPED)
        recorder.wait_finished("answer")
        assert recorder.tokens("answer") == alone


def test_what_an_interrupted_decode_has_written_is_gone(
    large_chunks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = llama_engine.LlamaModel(large_chunks)
    prompt = tuple(model.tokenize("so " * 500, add_special=True, parse_special=True))[:256]
    feeds = (Feed(0, prompt[64:], 64, True), Feed(1, prompt[64:128], 64, True))

    def sampled(*, interrupted: bool) -> list[int]:
        for slot in (0, 1):
            model.trim(slot, 0)
            model.open_slot(slot, spec(str(slot), prompt), accepted=0)
            model.decode([Feed(slot, prompt[:64], 0, False)])
        if interrupted:
            with insisting(model.interrupt):
                assert model.decode(feeds) == ()
        assert model.decode(feeds) == feeds
        return [model.sample(slot, 0).token for slot in (0, 1)]

    whole = sampled(interrupted=False)
    with caplog.at_level(logging.WARNING):
        assert sampled(interrupted=True) == whole
    assert caplog.records == []
    model.close()


@contextmanager
def insisting(act: Callable[[], None]) -> Iterator[None]:
    """A block during which another thread acts again and again."""
    over = threading.Event()

    def insist() -> None:
        while not over.wait(0.001):
            act()

    thread = threading.Thread(target=insist)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_stopped_prefill_and_a_stopped_answer_free_their_slots(recorder: Recorder) -> None:
    long = tuple(recorder.engine.tokenize("word " * 900, add_special=True, parse_special=True))
    recorder.calls.clear()
    recorder.engine.submit(spec("answer", prompt_of(recorder, "hi"), max_tokens=900))
    recorder.wait_for(lambda: bool(recorder.tokens("answer")))
    recorder.engine.submit(spec("prefill", long))
    recorder.wait_for(lambda: bool(recorder.steps("prefill")))
    recorder.engine.stop("prefill")
    recorder.engine.stop("answer")
    recorder.wait_finished("prefill", "answer")
    assert recorder.tokens("prefill") == ()
    assert recorder.engine.free_slots == SLOTS


def test_a_long_prompt_stalls_a_running_answer_for_one_chunk_at_most(recorder: Recorder) -> None:
    ignoring = SamplingParams(seed=1, temperature=0, ignore_eos=True)
    long = tuple(recorder.engine.tokenize("word " * 900, add_special=True, parse_special=True))
    recorder.calls.clear()
    recorder.engine.submit(
        spec("answer", prompt_of(recorder, "hi"), sampling=ignoring, max_tokens=120)
    )
    recorder.wait_for(lambda: len(recorder.tokens("answer")) > 3)
    recorder.engine.submit(spec("long", long, max_tokens=1))
    recorder.wait_finished("answer", "long")
    order = [call[0].sequence_id for call in recorder.calls]
    while_answering = order[: len(order) - order[::-1].index("answer")]
    assert while_answering.count("long") >= 7
    assert ("long", "long") not in pairwise(while_answering)


SHIFTING = SamplingParams(seed=1, temperature=0, ignore_eos=True)


@pytest.mark.parametrize("shift", [Shift(64), Shift(64, keep=30, discard=5)], ids=["half", "few"])
def test_an_answer_that_outgrew_its_context_goes_on_at_another_worker_too(
    recorder: Recorder, shift: Shift
) -> None:
    prompt = prompt_of(recorder, "Tell me about Paris.")
    one = spec("one", prompt, sampling=SHIFTING, max_tokens=60, shift=shift)
    neighbour = spec("neighbour", prompt)
    (alone,) = recorder.run(neighbour)
    whole, among = recorder.run(one, neighbour)
    finish = recorder.finish("one")
    assert finish is not None
    assert (len(whole), finish.reason, finish.is_truncated) == (60, FinishReason.LENGTH, True)
    assert among == alone
    cuts = [10, 40, 59]  # before it shifts, after, and at its end
    rests = recorder.run(*(replace(one, id=str(cut), sampled=whole[:cut]) for cut in cuts))
    assert [whole[:cut] + rest for cut, rest in zip(cuts, rests, strict=True)] == [whole] * 3


def test_a_pool_that_is_exhausted_fails_one_and_lets_the_others_finish(settings: Any) -> None:
    pooled = replace(settings, slots=3, kv_pool_tokens=256)
    with recording(llama_engine.open_llama_engine(pooled)) as recorder:
        long = tuple(recorder.engine.tokenize("so " * 300, add_special=True, parse_special=True))
        with pytest.raises(PromptTooLong, match="256 tokens"):
            recorder.engine.submit(spec("longer", long[:256]))
        recorder.run(
            spec("long", long[:150], max_tokens=120, sampling=SHIFTING),
            spec("one", prompt_of(recorder, "one"), max_tokens=40, sampling=SHIFTING),
            spec("two", prompt_of(recorder, "two"), max_tokens=40, sampling=SHIFTING),
        )
        finish = recorder.finish("long")
        assert finish is not None
        assert (finish.reason, finish.error) == (
            FinishReason.FAILED,
            "Context size has been exceeded.",
        )
        assert reason(recorder, "one") is reason(recorder, "two") is FinishReason.LENGTH


def test_prompts_that_share_a_step_are_answered_as_they_are_alone(settings: Any) -> None:
    """But for rounding, so only the first tokens are compared; the prompts differ in length."""
    pooled = replace(settings, slots=4, kv_pool_tokens=1024, prefill_chunk_tokens=256)
    with recording(llama_engine.open_llama_engine(pooled)) as recorder:
        assert not recorder.engine.model.batch_invariant
        words = ("one", "the second one", "three of them, please", "four")
        asked = [spec(word, prompt_of(recorder, word), max_tokens=4) for word in words]
        alone = [recorder.run(one)[0] for one in asked]
        assert len(set(alone)) > 1
        assert recorder.run(*asked) == alone


def test_token_pieces_join_to_the_text_that_was_tokenized(recorder: Recorder) -> None:
    engine, text = recorder.engine, "Grüße, 🚲 and 語!\n"
    tokens = engine.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(engine.piece, tokens)).decode() == text


AWKWARD = "<|im_start|>Grüße,\u0000 🚲e\u0301\r\n  語\u200d\ufffd\U0010ffff<|im_end|> "


@pytest.mark.parametrize("parse_special", [True, False])
def test_tokens_are_spelled_as_the_text_that_they_were_made_of(
    recorder: Recorder, parse_special: bool
) -> None:
    tokens = recorder.engine.tokenize(AWKWARD, add_special=False, parse_special=parse_special)
    assert b"".join(map(recorder.engine.spelling, tokens)).decode() == AWKWARD


def test_what_shows_nothing_is_spelled_by_its_name(recorder: Recorder) -> None:
    (end,) = recorder.engine.tokenize("<|im_end|>", add_special=False, parse_special=True)
    assert (recorder.engine.piece(end), recorder.engine.spelling(end)) == (b"", b"<|im_end|>")


def test_a_prompts_tokens_are_those_of_its_text(recorder: Recorder) -> None:
    engine, messages = recorder.engine, [{"role": "user", "content": AWKWARD}]
    text = engine.prompt_text(messages)
    assert engine.tokenize(text, add_special=True, parse_special=True) == list(
        engine.prompt_tokens(messages)
    )


def test_the_template_of_the_file_is_rendered_with_its_special_tokens(recorder: Recorder) -> None:
    engine = recorder.engine
    start = engine.tokenize("<|im_start|>", add_special=False, parse_special=True)
    assert len(start) == 1
    tokens = prompt_of(recorder, "hi")
    assert tokens[:1] == tuple(start)
    assert tokens[1:2] != tuple(start)
    assert tokens.count(start[0]) == 3


def test_the_model_tells_what_it_is(recorder: Recorder) -> None:
    model = recorder.engine.model
    assert (model.slots, model.context_tokens, model.context_train_tokens) == (8, 1024, 8192)
    assert (model.vocabulary_tokens, model.embedding_width) == (49152, 576)
    assert model.build.startswith("b")
    assert "<|im_start|>" in model.chat_template
    assert len(file_sha256(Path(model.path))) == 64


def test_numbers_keep_their_point(recorder: Recorder) -> None:
    assert locale.localeconv()["decimal_point"] == "."


def test_a_file_that_is_no_model_is_an_engine_failure(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"no model")
    with pytest.raises(EngineFailed, match="could not be loaded"):
        llama_engine.open_llama_engine(llama_engine.LlamaSettings(path, "broken"))
