"""The beginning of an answer, given by the client."""

from __future__ import annotations

from typing import Any

import pytest

from .wire import Node, asking, error_of, events, text_of

WORDS = "[[tokens=12 rate=0 seed=3]]"
BEGUN = [*asking(WORDS)["messages"], {"role": "assistant", "content": "Well,"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
EXPLICIT = {"continue_final_message": True, "add_generation_prompt": False}


@pytest.mark.clause("POST-14")
def test_an_answer_goes_on_where_its_beginning_ends(node: Node, other: Node, name: str) -> None:
    fields: dict[str, Any] = {"messages": BEGUN, "seed": 1}
    answer = node.post(name, "", **fields).json()
    whole = answer["choices"][0]["message"]["content"]
    assert whole.startswith("Well,") and text_of(events(other.read(name).content)) == whole
    assert answer["usage"]["completion_tokens"] == 12
    prompt = node.http.post("/apply-template", json=fields).json()["prompt"]
    opened = node.http.post("/apply-template", json=asking(WORDS)).json()["prompt"]
    assert prompt == opened + "Well,"

    def streamed(**more: Any) -> str:
        return text_of(events(node.post(None, "", stream=True, **fields, **more).content))

    assert streamed() == streamed(**EXPLICIT, echo=True) == whole
    assert streamed(**EXPLICIT) == whole.removeprefix("Well,")


CALLING = '{"tool_calls": [{"name": "add", "arguments": {"a": '
REST = "[[say]] 2}}]}[[/say]]"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ANY = [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]
CALL_BEGUN = [*asking(REST)["messages"], {"role": "assistant", "content": CALLING}]


@pytest.mark.clause("POST-14")
@pytest.mark.parametrize("more", [{}, EXPLICIT])
def test_a_call_that_was_begun_is_told_whole(node: Node, more: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"messages": CALL_BEGUN, "tools": ANY, **more}
    [choice] = node.post(None, "", **fields).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "")
    [call] = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a":  2}'}
    deltas = [
        one["choices"][0]["delta"]
        for one in events(node.post(None, "", stream=True, **fields).content)
    ]
    told = [one["tool_calls"][0]["function"] for one in deltas if "tool_calls" in one]
    assert not any(one.get("content") for one in deltas)
    assert told[0] == {"name": "add", "arguments": ""}
    assert "".join(one["arguments"] for one in told) == '{"a":  2}'


@pytest.mark.clause("POST-14")
def test_a_call_that_was_begun_is_told_whole_in_every_dialect(node: Node) -> None:
    tool = {"name": "add", "input_schema": SCHEMA}
    body = {"messages": CALL_BEGUN, "max_tokens": 100, "tools": [tool]}
    message = node.http.post("/v1/messages", json=body).json()
    assert message["stop_reason"] == "tool_use"
    assert [(one["type"], one["name"], one["input"]) for one in message["content"]] == [
        ("tool_use", "add", {"a": 2})
    ]
    function = {"type": "function", "name": "add", "parameters": SCHEMA}
    response = node.http.post(
        "/v1/responses", json={"input": CALL_BEGUN, "tools": [function]}
    ).json()
    [item] = response["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "add", '{"a":  2}')


@pytest.mark.clause("POST-14")
@pytest.mark.parametrize(
    "body",
    [
        {"messages": [*BEGUN, BEGUN[-1]]},
        {"messages": BEGUN, "continue_final_message": True},
        {"messages": [*BEGUN[:-1], {"role": "assistant", "tool_calls": [CALL]}]},
    ],
)
def test_what_cannot_be_continued_is_400(node: Node, body: dict[str, Any]) -> None:
    response = node.post(None, "", **body)
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")
