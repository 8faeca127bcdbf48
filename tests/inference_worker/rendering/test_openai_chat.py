"""Chat chunks, byte for byte."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.answer import (
    AnswerParser,
    ContentDelta,
    Delta,
    PlainParser,
    ReasoningDelta,
    ToolArguments,
    ToolCallBegun,
)
from inference_worker.engine import Candidate, Finish, FinishReason, Timings, TokenLogprobs
from inference_worker.rendering import Renderer, renderers_of
from inference_worker.rendering.openai_chat import ChatRenderer
from replay.frames import LONE_SURROGATE
from replay.records import SessionRecord
from replay.request import (
    AnswerFormat,
    ChatOptions,
    GenerationRequest,
    RenderOptions,
    SamplingParams,
)

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
    b'"predicted_per_token_ms":5.0,"predicted_per_second":200.0}'
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


def chat(
    *,
    record: SessionRecord = RECORD,
    sampling: SamplingParams = SAMPLING,
    parser: AnswerParser | None = None,
    **options: Any,
) -> ChatRenderer:
    request = GenerationRequest("openai.chat", "m", (), sampling, render=RenderOptions(**options))
    return ChatRenderer(record, request, parser or PlainParser())


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
    renderer = chat(sampling=sampling)
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
    renderer = chat(record=replace(RECORD, model="m\ud800"))
    assert b'"model":"m\xef\xbf\xbd"' in renderer.step("a", tokens=1, timings=None)


@pytest.mark.parametrize("spent", [Timings(0, 0.0, 0, 0.0), Timings(1, 0.0, 1, 0.0)])
def test_timings_of_nothing_divide_by_nothing(spent: Timings) -> None:
    (role, last) = chunks(chat().finish(STOP, tokens=0, timings=spent))
    assert "role" in role["choices"][0]["delta"]
    assert set(last["timings"].values()) <= {0, 1}


steps = st.lists(st.tuples(st.text(st.characters(), max_size=8), st.integers(0, 3)), max_size=8)


def rendered(texts: list[tuple[str, int]], **options: bool) -> bytes:
    renderer = chat(**options)
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
    body = rendered(texts, include_usage=usage, timings_per_token=timed)
    assert body == rendered(texts, include_usage=usage, timings_per_token=timed)
    assert body.endswith(b"\n\ndata: [DONE]\n\n")
    said = [
        choice["delta"].get("content") or "" for one in chunks(body) for choice in one["choices"]
    ]
    said_whole = [LONE_SURROGATE.sub("\ufffd", text) for text, _ in texts]
    assert "".join(said) == "".join(said_whole)


def test_the_dialect_of_the_record_chooses_the_renderer() -> None:
    request = GenerationRequest("openai.chat", "m", (), SamplingParams(seed=1))
    assert isinstance(renderers_of(RECORD, request)[0], ChatRenderer)
    with pytest.raises(KeyError):
        renderers_of(replace(RECORD, dialect="unknown"), request)


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_prefill_is_shown_once_before_all_else(tokens: int) -> None:
    renderer = chat(prefill="Well,")
    body = b"".join(renderer.step("a", tokens=n, timings=None) for n in range(tokens))
    body += renderer.finish(STOP, tokens=tokens, timings=None)
    assert body.startswith(ROLE + content("Well,") + content("a") * tokens + finished("stop"))
    assert body.count(b"Well,") == 1


class Held:
    """Parses a text as the deltas it is made with; until the end it holds the last one back."""

    def __init__(self, *deltas: Delta) -> None:
        self._shown, self._held = list(deltas[:-1]), list(deltas[-1:])

    def feed(self, text: str) -> list[Delta]:
        shown, self._shown = self._shown, []
        return shown

    def finish(self, *, is_cut: bool = False) -> list[Delta]:
        return self._held


def delta(told: bytes) -> bytes:
    return content("-").replace(b'{"content":"-"}', told)


ALL_DELTAS = (
    ReasoningDelta("hm"),
    ContentDelta("so"),
    ToolCallBegun(0, "call", "f"),
    ToolArguments(0, "{}"),
)


def test_thoughts_and_calls_are_told_as_such() -> None:
    renderer = chat(parser=Held(*ALL_DELTAS))
    body = renderer.step("...", tokens=1, timings=TIMINGS)
    assert body == (
        ROLE
        + delta(b'{"reasoning_content":"hm"}')
        + content("so")
        + delta(
            b'{"tool_calls":[{"index":0,"id":"call","type":"function",'
            b'"function":{"name":"f","arguments":""}}]}'
        )
    )
    assert renderer.finish(STOP, tokens=2, timings=None) == (
        delta(b'{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}')
        + finished("tool_calls")
        + b"data: [DONE]\n\n"
    )


def test_calls_that_were_cut_finish_as_what_cut_them() -> None:
    renderer = chat(parser=Held(*ALL_DELTAS))
    renderer.step("...", tokens=1, timings=None)
    assert finished("length") in renderer.finish(
        Finish(FinishReason.LENGTH), tokens=1, timings=None
    )


def test_what_is_told_beside_the_text_rides_on_the_last_of_its_deltas() -> None:
    sampling = SamplingParams(seed=0, logprobs=True)
    renderer = chat(sampling=sampling, timings_per_token=True, parser=Held(*ALL_DELTAS[1:]))
    said = renderer.step("so", tokens=1, timings=TIMINGS, logprobs=TOLD_OF)
    _, first, last = chunks(said + b"\n\n")
    assert [name in first for name in ("timings", "logprobs")] == [False, False]
    assert "timings" in last and len(last["choices"][0]["logprobs"]["content"]) == 2


def test_probabilities_do_not_wait_for_a_text_that_is_held_back() -> None:
    sampling = SamplingParams(seed=0, logprobs=True)
    renderer = chat(sampling=sampling, parser=Held(ContentDelta("<")))
    _, told = chunks(renderer.step("<", tokens=1, timings=None, logprobs=TOLD_OF) + b"\n\n")
    assert told["choices"][0]["delta"] == {}
    assert len(told["choices"][0]["logprobs"]["content"]) == 2


@given(cut=st.integers(0, 60), size=st.integers(1, 9))
def test_a_call_goes_on_where_another_worker_left_it(cut: int, size: int) -> None:
    said = 'Hm.\n<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>'
    tools = ({"type": "function", "function": {"name": "add"}},)
    request = GenerationRequest(
        "openai.chat",
        "m",
        (),
        SAMPLING,
        format=AnswerFormat(tools="hermes"),
        chat=ChatOptions(tools=tools),
    )
    pieces = [said[start : start + size] for start in range(0, len(said), size)]

    def rendered(renderer: Renderer, pieces: list[str]) -> bytes:
        return b"".join(renderer.step(one, tokens=1, timings=None) for one in pieces)

    whole, first, second = (renderers_of(RECORD, request)[0] for _ in range(3))
    log = rendered(first, pieces[:cut])
    rendered(second, pieces[:cut])  # what the log has already
    log += rendered(second, pieces[cut:]) + second.finish(STOP, tokens=1, timings=None)
    assert log == rendered(whole, pieces) + whole.finish(STOP, tokens=1, timings=None)
    assert log.count(b'"id":"chatcmpl-1"') == log.count(b"data: {")
    assert log.count(b'"name":"add"') == 1 and b'"finish_reason":"tool_calls"' in log
