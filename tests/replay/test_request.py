"""The generation request: as the node writes it, so the worker reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.request import (
    AnswerFormat,
    ChatOptions,
    GenerationRequest,
    ReasoningParams,
    RenderOptions,
    SamplingParams,
)

MESSAGES: tuple[dict[str, Any], ...] = ({"role": "user", "content": "\u6f22\U0001f9ea\u0000"},)
FULL = GenerationRequest(
    dialect="openai.chat",
    model="org/m:Q4",
    messages=MESSAGES,
    sampling=SamplingParams(
        seed=2**32 - 1,
        temperature=0.0,
        samplers=("xtc", "top_k"),
        dry_sequence_breakers=("\u6f22",),
        logit_bias=((3, None), ("a", -0.5)),
        ignore_eos=True,
    ),
    stop=("a", "\n\n"),
    max_tokens=0,
    render=RenderOptions(
        stream=False, include_usage=True, timings_per_token=True, prefill="Well, \u6f22"
    ),
    ping_interval_s=-1,
    format=AnswerFormat("<t>", "</t>", True, True, (1, 2), "hermes", (3,)),
    reasoning=ReasoningParams("both", 7, "so", True),
    chat=ChatOptions(
        tools=({"type": "function", "function": {"name": "f"}},),
        tool_choice="required",
        parallel_tool_calls=False,
        template_kwargs={"mood": [1, None]},
        add_generation_prompt=False,
    ),
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_request_comes_back(as_bytes: bool) -> None:
    text = FULL.to_json()
    assert GenerationRequest.from_json(text.encode() if as_bytes else text) == FULL


def test_what_a_client_sent_is_written_without_a_copy_of_each_element() -> None:
    nested: Any = "x"
    for _ in range(600):  # a copy would need as many calls in one another, and more
        nested = [nested]
    request = GenerationRequest("openai.chat", "m", ({"x": nested},), SamplingParams(seed=1))
    assert request.to_json().count("[") > 600


@given(st.lists(st.dictionaries(st.text(max_size=5), values, max_size=3), max_size=3))
def test_messages_are_kept_verbatim(messages: list[dict[str, Any]]) -> None:
    request = GenerationRequest("openai.chat", "m", tuple(messages), SamplingParams(seed=1))
    assert GenerationRequest.from_json(request.to_json()).messages == tuple(messages)


@given(st.floats(0, 10), st.floats(0, 1))
def test_numbers_are_kept_exactly(temperature: float, top_p: float) -> None:
    sampling = SamplingParams(seed=0, temperature=temperature, top_p=top_p)
    request = GenerationRequest("openai.chat", "m", (), sampling)
    assert GenerationRequest.from_json(request.to_json()).sampling == sampling


def test_what_a_newer_version_wrote_is_left_out() -> None:
    raw = json.loads(FULL.to_json())
    for part in (raw, raw["sampling"], raw["render"], raw["format"], raw["reasoning"]):
        part["colour"] = 1
    assert GenerationRequest.from_json(json.dumps(raw)) == FULL


def test_what_an_older_version_did_not_write_has_its_default() -> None:
    raw = {"dialect": "openai.chat", "model": "m", "messages": [], "sampling": {"seed": 1}}
    assert GenerationRequest.from_json(json.dumps(raw)) == GenerationRequest(
        "openai.chat", "m", (), SamplingParams(seed=1)
    )


def test_a_request_without_a_concrete_seed_is_refused() -> None:
    raw = {"dialect": "openai.chat", "model": "m", "messages": [], "sampling": {}}
    with pytest.raises(TypeError):
        GenerationRequest.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("told", "chooser", "is_stateful"),
    [
        ({}, "dist", False),
        ({"temperature": 0.0}, "greedy", False),
        ({"temperature": 0.0, "samplers": ("top_k",)}, "dist", False),
        ({"mirostat": 2}, "mirostat", True),
        ({"mirostat": 1, "temperature": 0.0}, "greedy", False),
        ({"mirostat": 1, "temperature": 0.0, "dynatemp_range": 1.0}, "greedy", False),
        ({"temperature": 0.0, "dynatemp_range": 1.0}, "dist", False),
        ({"adaptive_target": 0.5}, "dist", False),
        ({"adaptive_target": 0.5, "samplers": ("adaptive_p",)}, "adaptive_p", True),
        ({"adaptive_target": -1.0, "samplers": ("adaptive_p",)}, "dist", False),
    ],
)
def test_what_chooses_and_whether_it_remembers(
    told: dict[str, Any], chooser: str, is_stateful: bool
) -> None:
    sampling = SamplingParams(seed=1, **told)
    assert (sampling.chooser, sampling.is_stateful) == (chooser, is_stateful)
