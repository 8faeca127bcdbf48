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
