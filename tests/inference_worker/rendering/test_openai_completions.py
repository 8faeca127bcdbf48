"""Text completion chunks, byte for byte."""

from __future__ import annotations

import json
from typing import Any

from inference_worker.answer import PlainParser
from inference_worker.engine import Candidate, Finish, FinishReason, Timings, TokenLogprobs
from inference_worker.rendering.openai_completions import CompletionRenderer
from replay.records import SessionRecord
from replay.request import GenerationRequest, RenderOptions, SamplingParams

RECORD = SessionRecord(
    "t",
    "c",
    "c",
    "m",
    1,
    completion_id="cmpl-1",
    created_ms=1_700_000_000_999,
    prompt_token_count=5,
)
BASE = (
    b'"created":1700000000,"id":"cmpl-1","model":"m",'
    b'"system_fingerprint":"b1-replay-cluster","object":"text_completion"'
)
USAGE = (
    b'"usage":{"completion_tokens":2,"prompt_tokens":5,"total_tokens":7,'
    b'"prompt_tokens_details":{"cached_tokens":1}}'
)
TIMINGS = Timings(prompt_n=4, prompt_ms=2.0, predicted_n=2, predicted_ms=10.0, cache_n=1)


def renderer(*, post: bool = False, **options: Any) -> CompletionRenderer:
    sampling = SamplingParams(seed=0, post_sampling_probs=post)
    request = GenerationRequest(
        "openai.completions", "m", (), sampling, render=RenderOptions(**options), prompts=("x",)
    )
    return CompletionRenderer(RECORD, request, PlainParser())


def choice(text: bytes, reason: bytes) -> bytes:
    return (
        b'{"choices":[{"text":"' + text + b'","index":0,"logprobs":null,"finish_reason":' + reason
    ) + b"}],"


def test_a_text_is_a_chunk_and_no_text_is_none() -> None:
    one = renderer()
    assert one.step("", tokens=1, timings=TIMINGS) == b""
    assert one.step("Hi", tokens=2, timings=TIMINGS) == (
        b"data: " + choice(b"Hi", b"null") + BASE + b"}\n\n"
    )


def test_the_finish_has_usage_and_timings_and_then_all_is_done() -> None:
    body = renderer().finish(Finish(FinishReason.LENGTH), tokens=2, timings=TIMINGS)
    last, done = body.removesuffix(b"\n\n").split(b"\n\n")
    assert last.startswith(b"data: " + choice(b"", b'"length"') + BASE + b"," + USAGE)
    assert json.loads(last.removeprefix(b"data: "))["timings"]["cache_n"] == 1
    assert done == b"data: [DONE]"


def test_the_usage_alone_follows_where_it_is_asked_for() -> None:
    one = renderer(include_usage=True)
    body = one.finish(Finish(FinishReason.STOP), tokens=2, timings=TIMINGS)
    assert body.endswith(b'data: {"choices":[],' + BASE + b"," + USAGE + b"}\n\ndata: [DONE]\n\n")


def test_probabilities_have_openais_shape_and_llamas() -> None:
    told = [
        TokenLogprobs(
            Candidate(1, b"Hi", -0.5), (Candidate(1, b"Hi", -0.5), Candidate(2, b"Yo", -1))
        ),
        TokenLogprobs(Candidate(3, b"!", -0.25), ()),
    ]
    one = renderer()
    one.step("So: ", tokens=1, timings=None)
    body = one.step("Hi!", tokens=3, timings=None, logprobs=told)
    logprobs = json.loads(body.removeprefix(b"data: "))["choices"][0]["logprobs"]
    content = logprobs.pop("content")
    assert [token["id"] for token in content] == [1, 3]
    assert logprobs == {
        "tokens": ["Hi", "!"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"Hi": -0.5, "Yo": -1}, {}],
        "text_offset": [4, 6],
    }


def test_probabilities_after_sampling_are_no_logprobs() -> None:
    told = [TokenLogprobs(Candidate(1, b"Hi", 1.0), ())]
    body = renderer(post=True).step("Hi", tokens=1, timings=None, logprobs=told)
    [told_of] = json.loads(body.removeprefix(b"data: "))["choices"]
    assert list(told_of["logprobs"]) == ["content"]


def test_timings_are_told_per_token_where_asked_for() -> None:
    assert b'"timings":' in renderer(timings_per_token=True).step("x", tokens=1, timings=TIMINGS)
    assert b'"timings":' not in renderer().step("x", tokens=1, timings=TIMINGS)
