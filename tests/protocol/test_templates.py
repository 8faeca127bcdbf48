"""From messages to the prompt's text, as ``/apply-template`` shows it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .wire import Node, error_of

USER = {"role": "user", "content": "2 + 2?"}
FUNCTION = {"name": "add", "arguments": '{"a": 2}'}
CALLING = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "4"}]}


def prompt_of(node: Node, *messages: dict[str, Any], **fields: Any) -> str:
    """The prompt that a chat is generated from."""
    response = node.http.post("/apply-template", json={"messages": messages, **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["prompt"])


@pytest.mark.clause("CHAT-1")
def test_the_turn_is_opened_unless_the_client_does_not_want_it(node: Node) -> None:
    opened = prompt_of(node, USER)
    closed = prompt_of(node, USER, add_generation_prompt=False)
    assert opened == closed + "assistant:" and "2 + 2?" in closed
    assert prompt_of(node, USER, chat_template_kwargs={"unused": 1}) == opened
    response = node.post(None, "", messages=[USER], max_tokens=2, add_generation_prompt=False)
    assert response.status_code == 200


@pytest.mark.clause("CHAT-2")
def test_calls_and_results_reach_a_template_that_knows_neither(node: Node) -> None:
    said = json.dumps({"tool_calls": [{"name": "add", "arguments": {"a": 2}}]})
    prompt = prompt_of(node, USER, CALLING, RESULT)
    assert prompt.endswith(f"user: 2 + 2?\nassistant: {said}\ntool: 4\nassistant:")


@pytest.mark.clause("CHAT-1")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": [USER], "chat_template_kwargs": 3}, "'chat_template_kwargs'"),
        ({"messages": [USER, {**CALLING, "tool_calls": [{}]}, RESULT]}, "tool_calls[0].function"),
    ],
)
def test_what_no_template_could_show_is_400(node: Node, body: dict[str, Any], said: str) -> None:
    response = node.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400 and said in error_of(response)["message"]
