"""What a request says of thinking."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.openai_chat import parse
from api.problems import RequestInvalid
from replay.request import GenerationRequest, ReasoningParams

HELLO = {"role": "user", "content": "hi"}
THOUGHT = {"role": "assistant", "reasoning_content": "hm"}
EXPLICIT = {"continue_final_message": "reasoning_content", "add_generation_prompt": False}


def parsed(*messages: dict[str, Any], **body: Any) -> GenerationRequest:
    return parse({"messages": [HELLO, *messages], **body}, random_seed=1)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, ReasoningParams()),
        ({"reasoning_format": "auto"}, ReasoningParams()),
        ({"reasoning_format": "none"}, ReasoningParams(shown_as="content")),
        ({"reasoning_format": "deepseek-legacy"}, ReasoningParams(shown_as="both")),
        (
            {"reasoning_format": "deepseek-legacy", "stream": True},
            ReasoningParams(shown_as="content"),
        ),
        ({"thinking_budget_tokens": 0}, ReasoningParams(budget_tokens=0)),
        (
            {"reasoning_budget_tokens": 5, "reasoning_budget_message": "So,"},
            ReasoningParams(budget_tokens=5, budget_message="So,"),
        ),
        ({"reasoning_control": True}, ReasoningParams(is_controlled=True)),
    ],
)
def test_the_fields_are_llama_cpps(body: dict[str, Any], told: ReasoningParams) -> None:
    assert parsed(**body).reasoning == told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            {"enable_thinking": True},
        ),
    ],
)
def test_the_effort_is_the_templates(body: dict[str, Any], told: dict[str, Any]) -> None:
    assert parsed(**body).chat.template_kwargs == told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reasoning_format", "loud"),
        ("reasoning_effort", 3),
        ("reasoning_effort", "some"),
        ("reasoning_budget_tokens", -2),
        ("thinking_budget_tokens", 1.5),
        ("reasoning_budget_message", 4097 * "x"),
        ("reasoning_control", "yes"),
    ],
)
def test_a_mistake_is_named(name: str, value: Any) -> None:
    with pytest.raises(RequestInvalid, match=name):
        parsed(**{name: value})


def test_a_thought_goes_on_without_what_content_there_is() -> None:
    request = parsed({**THOUGHT, "content": "old"}, **EXPLICIT)
    assert request.messages[-1] == {**THOUGHT, "content": None}
    assert (request.render.prefill, request.render.prefill_reasoning) == ("", "hm")


def test_a_beginning_has_its_thought_too() -> None:
    request = parsed({**THOUGHT, "content": "Hi"})
    assert (request.render.prefill, request.render.prefill_reasoning) == ("Hi", "hm")
    silent = parsed({**THOUGHT, "content": "Hi"}, stream=True, **EXPLICIT)
    assert (silent.render.prefill, silent.render.prefill_reasoning) == ("", "")


@pytest.mark.parametrize(
    ("messages", "body", "named"),
    [
        ([{"role": "assistant", "content": "Hi"}], EXPLICIT, "continue_final_message"),
        ([], EXPLICIT, "continue_final_message"),
        ([THOUGHT], {"continue_final_message": "reasoning_content"}, "add_generation_prompt"),
        ([{**THOUGHT, "reasoning_content": 3}], {}, "reasoning_content"),
    ],
)
def test_what_no_thought_can_go_on_from_is_named(
    messages: list[dict[str, Any]], body: dict[str, Any], named: str
) -> None:
    with pytest.raises(RequestInvalid, match=named):
        parsed(*messages, **body)
