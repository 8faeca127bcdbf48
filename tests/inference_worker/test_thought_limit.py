"""Thoughts that are ended early: by a budget, or by somebody's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from engine_recorder import Recorder, recording

from inference_worker.engine import SequenceSpec, ThoughtLimit
from inference_worker.scripted_engine import open_scripted_engine
from inference_worker.thought_limit import ThoughtWatch
from replay.request import SamplingParams

CLOSING = (900, 901, 902)
LIMIT = ThoughtLimit("<think>", "</think>", CLOSING)
SAMPLING = SamplingParams(seed=1)
SAID = "<think>one two three four</think>\n\nfive six seven eight nine ten"


def followed(watch: ThoughtWatch, pieces: Sequence[bytes]) -> list[int | None]:
    """What is forced after each piece; whatever is forced is taken in a piece's place."""
    forced = []
    for piece in pieces:
        is_forced = watch.next_forced is not None
        watch.accept(b"" if is_forced else piece, is_forced=is_forced)
        forced.append(watch.next_forced)
    return forced


def test_a_spent_budget_ends_the_thought_once() -> None:
    watch = ThoughtWatch(replace(LIMIT, budget_tokens=2))
    pieces = [b"<thi", b"nk>", b"a", b"b", b"", b"", b"", b"<think>", b"c", b"d", b"e"]
    assert followed(watch, pieces) == [None, None, None, *CLOSING, *[None] * 5]


def test_a_budget_of_nothing_ends_it_at_once() -> None:
    watch = ThoughtWatch(replace(LIMIT, budget_tokens=0, is_open=True))
    assert watch.next_forced == 900
    assert followed(ThoughtWatch(replace(LIMIT, budget_tokens=0)), [b"<think>"]) == [900]


def test_a_thought_that_ends_by_itself_needs_no_end() -> None:
    watch = ThoughtWatch(replace(LIMIT, budget_tokens=2, is_open=True))
    assert followed(watch, [b"a", b"</think>", b"b", b"c"]) == [None] * 4


def test_neither_a_code_point_nor_an_end_is_cut() -> None:
    watch = ThoughtWatch(replace(LIMIT, budget_tokens=1, is_open=True))
    bike = "🚲".encode()
    pieces = [bike[:2], bike[2:] + b"</", b"th", b"e"]
    assert followed(watch, pieces) == [None, None, None, 900]


@pytest.mark.parametrize("text", [b"Hi <think> there", b" \nno", b"<thought>"])
def test_what_is_no_thought_is_left_alone(text: bytes) -> None:
    watch = ThoughtWatch(replace(LIMIT, budget_tokens=0))
    watch.is_ordered = True
    assert followed(watch, [text, b"<think>", b"a"]) == [None] * 3


def test_an_order_ends_a_thought_now_or_as_it_begins() -> None:
    watch = ThoughtWatch(LIMIT)
    assert followed(watch, [b"<think>", b"a", b"b"]) == [None] * 3
    watch.is_ordered = True
    assert watch.next_forced == 900
    assert followed(ThoughtWatch(replace(LIMIT, is_over=True)), [b"<think>"]) == [900]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording(open_scripted_engine(tokens_per_s=0)) as recorder:
        yield recorder


def limited(recorder: Recorder, message: str = "", **limit: object) -> SequenceSpec:
    """An answer of SAID whose thought is limited."""
    engine = recorder.engine
    asked = [{"role": "user", "content": f"[[say]]{SAID}[[/say]]"}]
    closing = engine.tokenize(message + "</think>", add_special=False, parse_special=True)
    thought = replace(LIMIT, closing=tuple(closing), **limit)
    return SequenceSpec("one", tuple(engine.prompt_tokens(asked)), SAMPLING, thought=thought)


def test_the_log_tells_which_tokens_were_forced(recorder: Recorder) -> None:
    spec = limited(recorder, " (enough)", budget_tokens=7)
    recorder.run(spec)
    text = recorder.text("one")
    assert text.startswith("<think>one two (enough)</think>")
    assert text.endswith("ten")
    forced = [token for step in recorder.steps("one") if step.is_forced for token in step.tokens]
    assert tuple(forced) == spec.thought.closing  # type: ignore[union-attr]


@pytest.mark.parametrize("order_at", [None, 12])
def test_a_takeover_at_any_token_forces_the_same(recorder: Recorder, order_at: int | None) -> None:
    spec = limited(recorder, "!", budget_tokens=8 if order_at is None else -1)
    if order_at is not None:
        # As an order does that is heard there: the record says so from then on.
        spec = replace(spec, sampled=recorder.run(replace(spec, max_tokens=order_at))[0])
        spec = replace(spec, thought=replace(spec.thought, is_over=True))  # type: ignore[type-var]
    whole = spec.sampled + recorder.run(spec)[0]
    flags = [step.is_forced for step in recorder.steps("one") for _ in step.tokens]
    is_forced = [False] * len(spec.sampled) + flags
    assert sum(is_forced) == len(spec.thought.closing)  # type: ignore[union-attr]
    for cut in range(len(spec.sampled), len(whole)):
        again = replace(
            spec,
            sampled=whole[:cut],
            forced=frozenset(index for index in range(cut) if is_forced[index]),
        )
        assert whole[:cut] + recorder.run(again)[0] == whole


def test_an_order_is_heard_while_the_model_thinks() -> None:
    with recording(open_scripted_engine(tokens_per_s=200)) as recorder:
        asked = [{"role": "user", "content": "[[say]]<think>" + 2000 * "so " + "[[/say]]"}]
        spec = replace(limited(recorder), prompt=tuple(recorder.engine.prompt_tokens(asked)))
        recorder.engine.submit(replace(spec, max_tokens=600))
        recorder.wait_for(lambda: "so" in recorder.text("one"))
        recorder.engine.end_thought("nobody's")
        recorder.engine.end_thought("one")
        recorder.wait_for(lambda: "</think>" in recorder.text("one"))
        recorder.engine.stop("one")
        recorder.wait_finished("one")
    assert recorder.text("one").count("</think>") == 1


def test_names_of_special_tokens_are_shown_where_the_format_has_them(recorder: Recorder) -> None:
    engine = recorder.engine
    [silent] = engine.tokenize("<|silent|>", add_special=False, parse_special=True)
    spec = replace(
        limited(recorder, budget_tokens=0, is_open=True), shown_tokens=frozenset({silent})
    )
    thought = replace(spec.thought, closing=(silent, ord("!")))  # type: ignore[type-var]
    recorder.run(replace(spec, thought=thought))
    assert recorder.text("one").startswith("<|silent|>!")
