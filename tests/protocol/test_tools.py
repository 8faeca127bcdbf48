"""Tools: what a call looks like on the wire. The scripted model says what it is told to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .wire import Node, asking, error_of, events

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}
TWO = '{"tool_calls": [{"name": "add", "arguments": {"a": 2}}, {"name": "add", "arguments": {}}]}'


def saying(text: str) -> str:
    return f"[[say]]{text}[[/say]]"


def deltas(body: bytes) -> list[dict[str, Any]]:
    return [one["choices"][0]["delta"] for one in events(body) if one["choices"]]


@pytest.mark.clause("CHAT-4")
def test_calls_are_told_as_they_are_made(node: Node, other: Node, name: str) -> None:
    body = node.post(name, saying(TWO), stream=True, tools=[ADD]).content
    told = [one["tool_calls"][0] for one in deltas(body) if "tool_calls" in one]
    headers = [one for one in told if "id" in one]
    assert [(one["index"], one["type"], one["function"]) for one in headers] == [
        (index, "function", {"name": "add", "arguments": ""}) for index in (0, 1)
    ]
    pieces = [one for one in told if "id" not in one]
    assert len(pieces) > 2 and not any("name" in one["function"] for one in pieces)
    assert "".join(one["function"]["arguments"] for one in pieces) == '{"a": 2}{}'
    assert events(body)[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any(one.get("content") for one in deltas(body))
    assert other.read(name).content == body


@pytest.mark.clause("CHAT-4")
def test_folded_calls_stand_in_the_message(node: Node) -> None:
    [choice] = node.post(None, saying(TWO), tools=[ADD]).json()["choices"]
    calls = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "")
    assert [one["function"]["arguments"] for one in calls] == ['{"a": 2}', "{}"]
    assert len({one["id"] for one in calls}) == 2


@pytest.mark.clause("CHAT-4")
def test_a_call_that_a_limit_cuts_has_the_arguments_that_came(node: Node) -> None:
    begun, told = TWO[: TWO.index("add") + 2], TWO[: TWO.index("2")]

    def answered(text: str, **more: Any) -> list[dict[str, Any]]:
        fields = {"tools": [ADD], "max_tokens": len(text), **more}
        return events(node.post(None, saying(TWO), stream=True, **fields).content)

    *said, last = [one["choices"][0] for one in answered(told)]
    assert last["finish_reason"] == "length"
    calls = [call for one in said for call in one["delta"].get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "add"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": '
    for deltas in (said, [one["choices"][0] for one in answered(begun)]):
        assert not any(one["delta"].get("content") for one in deltas)


@pytest.mark.clause("CHAT-4")
@pytest.mark.parametrize(
    ("text", "content"),
    [
        ('{"response": "\\"hi\\" \\ud83d\\udeb2"}', '"hi" 🚲'),
        (TWO.replace("add", "rm"), TWO.replace("add", "rm")),
        ("plain", "plain"),
    ],
)
def test_what_is_no_call_is_content(node: Node, text: str, content: str) -> None:
    [choice] = node.post(None, saying(text), tools=[ADD]).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": content}
    assert choice["finish_reason"] == "stop"


@pytest.mark.clause("CHAT-3")
def test_without_a_choice_of_tools_nothing_is_a_call(node: Node) -> None:
    for fields in ({}, {"tools": [ADD], "tool_choice": "none"}):
        [choice] = node.post(None, saying(TWO), **fields).json()["choices"]
        assert choice["message"]["content"] == TWO


@pytest.mark.clause("CHAT-3")
def test_the_model_hears_of_the_tools(node: Node) -> None:
    def prompt(**fields: Any) -> str:
        asked = asking("hi", tools=[ADD], **fields)
        return str(node.http.post("/apply-template", json=asked).json()["prompt"])

    assert json.dumps(PARAMETERS["type"]) in prompt() and '"add"' in prompt()
    assert '"add"' not in prompt(tool_choice="none")


@pytest.mark.clause("CHAT-3")
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [ADD], "tool_choice": "must"}, "Invalid tool_choice: must"),
        ({"tools": [ADD], "grammar": 'root ::= "x"'}, "Cannot use custom grammar"),
        ({"tools": [ADD], "logprobs": True, "stream": True}, "logprobs"),
    ],
)
def test_a_bad_tool_is_400(node: Node, fields: dict[str, Any], said: str) -> None:
    response = node.post(None, "hi", **fields)
    assert response.status_code == 400 and said in error_of(response)["message"]
