"""Chat chunks, byte for byte."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.engine import Candidate, Finish, FinishReason, Timings, TokenLogprobs
from inference_worker.rendering import renderer_of
from inference_worker.rendering.openai_chat import ChatRenderer
from replay.frames import LONE_SURROGATE
from replay.records import SessionRecord
from replay.request import GenerationRequest, RenderOptions, SamplingParams

RECORD = SessionRecord(
    "t",
    "c",
    "c",
    "org/m",
    1,
    dialect="openai.chat",
    completion_id="chatcmpl-1",
    created_ms=1_700_000_000_999,
    prompt_token_count=5,
)
BASE = (
    b'"created":1700000000,"id":"chatcmpl-1","model":"org/m",'
    b'"system_fingerprint":"b1-replay-cluster","object":"chat.completion.chunk"'
)
SAMPLING = SamplingParams(seed=0)
STOP = Finish(FinishReason.STOP)
TIMINGS = Timings(prompt_n=4, prompt_ms=2.0, predicted_n=3, predicted_ms=10.0, cache_n=1)
TOLD = (
    b'"timings":{"cache_n":1,"prompt_n":4,"prompt_ms":2.0,"prompt_per_token_ms":0.5,'
    b'"prompt_per_second":2000.0,"predicted_n":3,"predicted_ms":10.0,'
    b'"predicted_per_token_ms":3.333,"predicted_per_second":200.0}'
)
ROLE = (
    b'data: {"choices":[{"finish_reason":null,"index":0,'
    b'"delta":{"role":"assistant","content":null}}],' + BASE + b"}\n\n"
)


def content(text: str, more: bytes = b"") -> bytes:
    return (
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"'
        + text.encode()
        + b'"}}],'
        + BASE
        + more
        + b"}\n\n"
    )


def finished(reason: str, more: bytes = b"") -> bytes:
    return (
        b'data: {"choices":[{"finish_reason":"'
        + reason.encode()
        + b'","index":0,"delta":{}}],'
        + BASE
        + more
        + b"}\n\n"
    )


def chat(**options: Any) -> ChatRenderer:
    return ChatRenderer(RECORD, RenderOptions(**options), SAMPLING)


def chunks(body: bytes) -> list[dict[str, Any]]:
    lines = body.split(b"\n\n")[:-2]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def test_a_small_answer_is_these_bytes() -> None:
    renderer = chat()
    body = renderer.step("Hi", tokens=1, timings=TIMINGS)
    body += renderer.step("", tokens=2, timings=TIMINGS)
    body += renderer.step(' "\u6f22\n', tokens=3, timings=TIMINGS)
    body += renderer.finish(STOP, tokens=4, timings=TIMINGS)
    assert body == (
        ROLE
        + content("Hi")
        + content(' \\"\u6f22\\n')
        + finished("stop", b"," + TOLD)
        + b"data: [DONE]\n\n"
    )


def test_with_usage_the_usage_chunk_is_the_last_and_carries_the_timings() -> None:
    renderer = chat(include_usage=True)
    renderer.step("Hi", tokens=1, timings=TIMINGS)
    assert renderer.finish(STOP, tokens=3, timings=TIMINGS) == (
        finished("stop")
        + b'data: {"choices":[],'
        + BASE
        + b',"usage":{"completion_tokens":3,"prompt_tokens":5,"total_tokens":8,'
        + b'"prompt_tokens_details":{"cached_tokens":1}},'
        + TOLD
        + b"}\n\ndata: [DONE]\n\n"
    )


@pytest.mark.parametrize("with_usage", [False, True])
def test_timings_ride_on_the_last_chunk_and_on_no_other(with_usage: bool) -> None:
    renderer = chat(include_usage=with_usage)
    body = renderer.step("a", tokens=1, timings=TIMINGS)
    body += renderer.finish(STOP, tokens=2, timings=TIMINGS)
    assert ["timings" in chunk for chunk in chunks(body)][:-1] == [False] * (2 + with_usage)
    assert "timings" in chunks(body)[-1]


def test_timings_per_token_ride_on_every_content_chunk() -> None:
    renderer = chat(timings_per_token=True)
    assert renderer.step("a", tokens=1, timings=TIMINGS) == ROLE + content("a", b"," + TOLD)
    assert renderer.step("b", tokens=1, timings=None) == content("b")


@pytest.mark.parametrize(
    ("reason", "told"),
    [(FinishReason.STOP, "stop"), (FinishReason.LENGTH, "length")],
)
def test_the_finish_reason_is_openais(reason: FinishReason, told: str) -> None:
    body = chat().finish(Finish(reason, stopping_word="x"), tokens=0, timings=None)
    assert body == ROLE + finished(told) + b"data: [DONE]\n\n"


def test_an_answer_without_text_has_a_role_and_a_finish() -> None:
    renderer = chat()
    assert renderer.step("", tokens=1, timings=None) == ROLE
    assert renderer.finish(STOP, tokens=1, timings=None) == finished("stop") + b"data: [DONE]\n\n"


BIKE = Candidate(7, "\U0001f6b2".encode()[:2], -0.25)
TOLD_OF = [
    TokenLogprobs(BIKE, (BIKE, Candidate(2, b" a", -1.5))),
    TokenLogprobs(Candidate(8, "\U0001f6b2".encode()[2:] + b"!", 0.0), ()),
]
HALF_A_BIKE = b'"id":7,"token":"","bytes":[240,159]'


@pytest.mark.parametrize(
    ("is_post", "name", "top"),
    [(False, b"logprob", b"top_logprobs"), (True, b"prob", b"top_probs")],
)
def test_probabilities_are_told_with_the_text_of_their_tokens(
    is_post: bool, name: bytes, top: bytes
) -> None:
    sampling = SamplingParams(seed=0, logprobs=True, n_probs=2, post_sampling_probs=is_post)
    renderer = ChatRenderer(RECORD, RenderOptions(), sampling)
    assert renderer.step("", tokens=1, timings=None) == ROLE
    body = renderer.step("\U0001f6b2!", tokens=2, timings=None, logprobs=TOLD_OF)
    told = (
        b'"logprobs":{"content":[{' + HALF_A_BIKE + b',"%s":-0.25,"%s":[' % (name, top)
        + b"{" + HALF_A_BIKE + b',"%s":-0.25},' % name
        + b'{"id":2,"token":" a","bytes":[32,97],"%s":-1.5}]},' % name
        + b'{"id":8,"token":"\xef\xbf\xbd\xef\xbf\xbd!","bytes":[154,178,33],'
        + b'"%s":0.0,"%s":[]}]}' % (name, top)
    )  # fmt: skip
    assert body == content("\U0001f6b2!").replace(b'"}}],', b'"},' + told + b"}],")


def test_the_role_is_said_once() -> None:
    renderer = chat()
    body = b"".join(renderer.step("x", tokens=n, timings=None) for n in range(5))
    assert body.count(b'"role"') == 1
    assert body.startswith(ROLE)


def test_lone_surrogates_become_replacement_characters() -> None:
    renderer = chat()
    body = renderer.step("a\ud800b\udc00", tokens=1, timings=None)
    assert body == ROLE + content("a\ufffdb\ufffd")


def test_a_name_that_is_no_text_is_mended_too() -> None:
    renderer = ChatRenderer(replace(RECORD, model="m\ud800"), RenderOptions(), SAMPLING)
    assert b'"model":"m\xef\xbf\xbd"' in renderer.step("a", tokens=1, timings=None)


@pytest.mark.parametrize("spent", [Timings(0, 0.0, 0, 0.0), Timings(1, 0.0, 1, 0.0)])
def test_timings_of_nothing_divide_by_nothing(spent: Timings) -> None:
    (role, last) = chunks(chat().finish(STOP, tokens=0, timings=spent))
    assert "role" in role["choices"][0]["delta"]
    assert set(last["timings"].values()) <= {0, 1}


steps = st.lists(st.tuples(st.text(st.characters(), max_size=8), st.integers(0, 3)), max_size=8)


def rendered(texts: list[tuple[str, int]], options: RenderOptions) -> bytes:
    renderer = ChatRenderer(RECORD, options, SAMPLING)
    body, count = b"", 0
    for text, tokens in texts:
        count += tokens
        if text or tokens:
            body += renderer.step(text, tokens=count, timings=TIMINGS)
    return body + renderer.finish(STOP, tokens=count, timings=TIMINGS)


@given(steps, st.booleans(), st.booleans())
def test_the_same_steps_make_the_same_bytes_and_say_the_same_text(
    texts: list[tuple[str, int]], usage: bool, timed: bool
) -> None:
    options = RenderOptions(include_usage=usage, timings_per_token=timed)
    body = rendered(texts, options)
    assert body == rendered(texts, options)
    assert body.endswith(b"\n\ndata: [DONE]\n\n")
    said = [
        choice["delta"].get("content") or "" for one in chunks(body) for choice in one["choices"]
    ]
    said_whole = [LONE_SURROGATE.sub("\ufffd", text) for text, _ in texts]
    assert "".join(said) == "".join(said_whole)


def test_the_dialect_of_the_record_chooses_the_renderer() -> None:
    request = GenerationRequest("openai.chat", "m", (), SamplingParams(seed=1))
    assert isinstance(renderer_of(RECORD, request), ChatRenderer)
    with pytest.raises(KeyError):
        renderer_of(replace(RECORD, dialect="unknown"), request)


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_prefill_is_shown_once_before_all_else(tokens: int) -> None:
    renderer = ChatRenderer(RECORD, RenderOptions(prefill="Well,"), SAMPLING)
    body = b"".join(renderer.step("a", tokens=n, timings=None) for n in range(tokens))
    body += renderer.finish(STOP, tokens=tokens, timings=None)
    assert body.startswith(ROLE + content("Well,") + content("a") * tokens + finished("stop"))
    assert body.count(b"Well,") == 1
