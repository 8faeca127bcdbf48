from collections.abc import Iterator
from itertools import islice

import pytest
from engine_recorder import Recorder, recording
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.engine import FinishReason, SequenceSpec
from inference_worker.scripted_engine import (
    BURST_BYTES,
    END,
    open_scripted_engine,
    read_script,
    scripted_answer,
    scripted_tokens,
)
from replay.request import SamplingParams

SAMPLING = SamplingParams(seed=1)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording(open_scripted_engine(tokens_per_s=0)) as recorder:
        yield recorder


def prompt_of(recorder: Recorder, content: str) -> tuple[int, ...]:
    return tuple(recorder.engine.prompt_tokens([{"role": "user", "content": content}]))


@given(st.text(max_size=60).filter(lambda text: "<|" not in text))
def test_tokens_and_text_are_each_others_inverse(text: str) -> None:
    engine = open_scripted_engine()
    tokens = engine.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(engine.piece, tokens)) == text.encode("utf-8", "replace")


def test_the_engine_shows_the_scripted_answer(recorder: Recorder) -> None:
    prompt = prompt_of(recorder, "hi")
    recorder.run(SequenceSpec("one", prompt, SAMPLING))
    assert recorder.text("one") == scripted_answer(prompt, SAMPLING)
    assert len(recorder.tokens("one")) == 120


@pytest.mark.parametrize("length", [1, 2, 40, 500])
def test_a_directive_sets_the_answers_length_in_tokens(recorder: Recorder, length: int) -> None:
    prompt = prompt_of(recorder, f"hi [[tokens={length}]]")
    (tokens,) = recorder.run(SequenceSpec("one", prompt, SAMPLING))
    assert (len(tokens), tokens[-1]) == (length, END)
    assert "\ufffd" not in recorder.text("one")


def test_another_seed_is_another_answer(recorder: Recorder) -> None:
    prompt = prompt_of(recorder, "hi")
    assert scripted_answer(prompt, SAMPLING) != scripted_answer(prompt, SamplingParams(seed=2))


def test_answers_have_tokens_that_show_nothing_and_text_beyond_ascii(recorder: Recorder) -> None:
    prompt = prompt_of(recorder, "hi [[tokens=2000]]")
    recorder.run(SequenceSpec("one", prompt, SAMPLING))
    assert any(step.tokens and not step.text for step in recorder.steps("one"))
    assert {"🚲", "語", "\u0301", "`"} <= set(recorder.text("one"))


def test_a_takeover_goes_on_with_the_same_answer(recorder: Recorder) -> None:
    prompt = prompt_of(recorder, "hi")
    whole = tuple(scripted_tokens(prompt, SAMPLING))
    (rest,) = recorder.run(SequenceSpec("one", prompt, SAMPLING, sampled=whole[:50]))
    assert whole[:50] + rest == whole


def test_without_its_end_token_an_answer_goes_on(recorder: Recorder) -> None:
    sampling = SamplingParams(seed=1, ignore_eos=True)
    prompt = prompt_of(recorder, "hi [[tokens=10]]")
    (tokens,) = recorder.run(SequenceSpec("one", prompt, sampling, max_tokens=300))
    assert tokens == tuple(islice(scripted_tokens(prompt, sampling), 300))


def test_a_script_that_fails_fails_its_sequence_only(recorder: Recorder) -> None:
    failing = SequenceSpec("failing", prompt_of(recorder, "hi [[fail_at=10]]"), SAMPLING)
    other = SequenceSpec("other", prompt_of(recorder, "hi"), SAMPLING)
    tokens, _ = recorder.run(failing, other)
    finishes = [recorder.finish(one) for one in ("failing", "other")]
    assert [finish and finish.reason for finish in finishes] == [
        FinishReason.FAILED,
        FinishReason.STOP,
    ]
    assert len(tokens) == 10


def test_the_last_directive_counts() -> None:
    engine = open_scripted_engine()
    prompt = engine.tokenize(
        "[[tokens=9]] [[tokens=40 rate=2.5 seed=7 fail_at=10 prefill_s=2]]",
        add_special=True,
        parse_special=True,
    )
    script = read_script(prompt, SAMPLING)
    assert (script.tokens, script.rate, script.seed) == (40, 2.5, 7)
    assert (script.fail_at, script.prefill_s) == (10, 2)


def test_a_pace_is_kept_for_each_sequence_by_itself(recorder: Recorder) -> None:
    slow = SequenceSpec("slow", prompt_of(recorder, "hi [[tokens=1000 rate=5]]"), SAMPLING)
    fast = SequenceSpec("fast", prompt_of(recorder, "hi [[tokens=200 rate=0]]"), SAMPLING)
    recorder.engine.submit(slow)
    recorder.engine.submit(fast)
    recorder.wait_finished("fast")
    assert len(recorder.tokens("slow")) < 100


def test_a_burst_is_one_token_of_4_kib(recorder: Recorder) -> None:
    prompt = prompt_of(recorder, "hi [[tokens=60 burst_every=3]]")
    recorder.run(SequenceSpec("one", prompt, SAMPLING))
    assert max(len(step.text) for step in recorder.steps("one")) == BURST_BYTES
    assert recorder.text("one") == scripted_answer(prompt, SAMPLING)


def test_a_pause_is_silence_before_one_token(recorder: Recorder) -> None:
    pausing = SequenceSpec(
        "pausing", prompt_of(recorder, "hi [[tokens=9 rate=0 pause_at=5 pause_s=600]]"), SAMPLING
    )
    other = SequenceSpec("other", prompt_of(recorder, "hi [[tokens=900 rate=0]]"), SAMPLING)
    recorder.engine.submit(pausing)
    recorder.run(other)
    assert len(recorder.tokens("pausing")) == 5


def test_a_directive_says_a_text_verbatim(recorder: Recorder) -> None:
    said = '<tool_call>\n{"é": [["a"]]}\n</tool_call>'
    prompt = prompt_of(recorder, f"hi [[say]]{said}[[/say]]")
    recorder.run(SequenceSpec("one", prompt, SAMPLING))
    assert recorder.text("one") == said == scripted_answer(prompt, SAMPLING)
