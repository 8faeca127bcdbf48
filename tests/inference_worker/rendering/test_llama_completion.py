"""llama.cpp's own completion events, byte for byte."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from inference_worker.answer import PlainParser
from inference_worker.engine import Candidate, Finish, FinishReason, Timings, TokenLogprobs
from inference_worker.rendering.llama_completion import NativeRenderer
from replay.records import SessionRecord
from replay.request import (
    AnswerFormat,
    ContextOptions,
    GenerationRequest,
    RenderOptions,
    SamplingParams,
)

RECORD = SessionRecord("t", "c", "c", "m", 1, completion_id="cmpl-1", prompt_token_count=5)
TIMINGS = Timings(prompt_n=4, prompt_ms=2.0, predicted_n=2, predicted_ms=10.0, cache_n=1)
REQUEST = GenerationRequest(
    "llama.completion",
    "m",
    (),
    SamplingParams(seed=7, logit_bias=((3, None), (4, 0.5))),
    stop=("END",),
    max_tokens=9,
    prompts=("Once",),
    context=ContextOptions(n_keep=4, n_discard=2),
)
FINAL = [
    "index",
    "content",
    "tokens",
    "id_slot",
    "stop",
    "model",
    "tokens_predicted",
    "tokens_evaluated",
    "generation_settings",
    "prompt",
    "has_new_line",
    "truncated",
    "stop_type",
    "stopping_word",
    "tokens_cached",
    "timings",
]


def renderer(**options: Any) -> NativeRenderer:
    return NativeRenderer(RECORD, replace(REQUEST, render=RenderOptions(**options)), PlainParser())


def last(one: NativeRenderer, finish: Finish) -> dict[str, Any]:
    body = one.finish(finish, tokens=2, timings=TIMINGS)
    event: dict[str, Any] = json.loads(body.removeprefix(b"data: "))
    assert body.count(b"\n\n") == 1
    return event


def test_every_token_has_an_event() -> None:
    assert renderer().step("Hi", tokens=2, timings=TIMINGS, ids=(6, 7)) == (
        b'data: {"index":0,"content":"Hi","tokens":[6,7],"stop":false,"id_slot":-1,'
        b'"tokens_predicted":2,"tokens_evaluated":5}\n\n'
    )
    assert b'"content":"","tokens":[8]' in renderer().step("", tokens=3, timings=None, ids=(8,))


def test_an_event_tells_what_was_asked_for() -> None:
    told = [TokenLogprobs(Candidate(1, b"Hi", -0.5), ())]
    body = renderer(timings_per_token=True).step("Hi", tokens=1, timings=TIMINGS, logprobs=told)
    event = json.loads(body.removeprefix(b"data: "))
    assert list(event)[-2:] == ["timings", "completion_probabilities"]
    assert event["completion_probabilities"][0]["logprob"] == -0.5


def test_the_last_event_says_everything() -> None:
    one = renderer()
    one.step("a\nb", tokens=1, timings=None)
    event = last(one, Finish(FinishReason.STOP))
    assert list(event) == FINAL
    assert (event["content"], event["tokens"], event["prompt"]) == ("", [], "Once")
    assert (event["has_new_line"], event["tokens_cached"]) == (True, 6)
    settings = event["generation_settings"]
    assert (settings["seed"], settings["n_predict"]) == (7, 9)
    assert settings["temperature"] == 0.800000011920929
    assert settings["logit_bias"] == [{"bias": None, "token": 3}, {"bias": 0.5, "token": 4}]
    assert settings["stop"] == ["END"]
    assert (settings["n_keep"], settings["n_discard"]) == (4, 2)


@pytest.mark.parametrize(
    ("finish", "kind", "word", "truncated"),
    [
        (Finish(FinishReason.STOP), "eos", "", False),
        (Finish(FinishReason.STOP, stopping_word="END"), "word", "END", False),
        (Finish(FinishReason.LENGTH), "limit", "", False),
        (Finish(FinishReason.LENGTH, context_full=True), "limit", "", True),
        (Finish(FinishReason.STOP, shifted=True), "eos", "", True),
    ],
)
def test_how_it_ended_is_told(finish: Finish, kind: str, word: str, truncated: bool) -> None:
    event = last(renderer(), finish)
    assert (event["stop_type"], event["stopping_word"], event["truncated"]) == (
        kind,
        word,
        truncated,
    )


def test_some_fields_may_be_asked_for_by_path() -> None:
    paths = ("stop_type", "generation_settings/seed", "timings/predicted_n", "no", "stop_type/x")
    event = last(renderer(stream=True, response_fields=paths), Finish(FinishReason.STOP))
    assert event == {
        "stop_type": "eos",
        "generation_settings/seed": 7,
        "timings/predicted_n": 2,
    }
    whole = last(renderer(stream=False, response_fields=paths), Finish(FinishReason.STOP))
    assert list(whole) == FINAL


@pytest.mark.parametrize("ignored", [False, True])
def test_ends_that_are_ignored_are_told_as_biases(ignored: bool) -> None:
    sampling = SamplingParams(seed=7, ignore_eos=ignored)
    request = replace(REQUEST, sampling=sampling, format=AnswerFormat(end_tokens=(1, 2)))
    settings = last(NativeRenderer(RECORD, request, PlainParser()), Finish(FinishReason.STOP))
    settings = settings["generation_settings"]
    banned = [{"bias": None, "token": token} for token in (1, 2)]
    assert settings["logit_bias"] == (banned if ignored else [])
