"""``__verbose``: the native route's result beside an answer of OpenAI's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from inference_worker.engine import Finish, FinishReason, Timings
from inference_worker.rendering import renderers_of
from replay.records import SessionRecord
from replay.request import GenerationRequest, RenderOptions, SamplingParams

TIMINGS = Timings(prompt_n=4, prompt_ms=2.0, predicted_n=3, predicted_ms=10.0, cache_n=1)
DIALECTS = ["openai.chat", "openai.completions"]


def told(dialect: Any, *texts: str, n: int = 1, **options: Any) -> list[dict[str, Any]]:
    """The JSON chunks of an answer of these texts, of each choice alike."""
    record = SessionRecord("t", "c", "c", "org/m", 1, dialect=dialect, prompt_token_count=5)
    render = RenderOptions(verbose=True, **options)
    request = GenerationRequest(dialect, "m", (), SamplingParams(seed=7), render=render, n=n)
    request = replace(request, prompts=("<user>Hi",), prompt_lengths=(5,))
    body = b""
    for renderer in renderers_of(record, request):
        for count, text in enumerate(texts, 1):
            body += renderer.step(text, tokens=count, timings=TIMINGS)
        finish = Finish(FinishReason.STOP, stopping_word="END")
        body += renderer.finish(finish, tokens=len(texts), timings=TIMINGS)
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n")]
    return [json.loads(line) for line in lines if line not in (b"", b"[DONE]")]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_folded_has_the_whole_content(dialect: str) -> None:
    [found] = [
        chunk["__verbose"]
        for chunk in told(dialect, "a\n", "b", stream=False)
        if "__verbose" in chunk
    ]
    assert (found["content"], found["has_new_line"]) == ("a\nb", True)
    assert (found["prompt"], found["tokens_evaluated"]) == ("<user>Hi", 5)
    assert (found["stop_type"], found["stopping_word"]) == ("word", "END")
    assert found["generation_settings"]["seed"] == 7


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_has_it_beside_the_finish_and_tells_no_content_twice(dialect: str) -> None:
    chunks = told(dialect, "a", "b", include_usage=True)
    [found] = [chunk for chunk in chunks if "__verbose" in chunk]
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["__verbose"]["content"] == ""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_of_several_choices_it_is_the_first_ones(dialect: str) -> None:
    found = [chunk for chunk in told(dialect, "a", n=2, stream=False) if "__verbose" in chunk]
    assert [chunk["choices"][0]["index"] for chunk in found] == [0]
