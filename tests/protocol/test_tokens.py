"""Tokens, templates and counting: no slot, no session, any node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from inference_worker.scripted_engine import open_scripted_engine

from .wire import Node, asking, error_of

Announce = Callable[[dict[str, Any]], None]

COUNT = "/v1/chat/completions/input_tokens"
AWKWARD = "a<|end|>\u0000 🚲e\u0301語\r\n\ufffd"
HELLO = asking("hello")
ROUTES: dict[str, dict[str, Any]] = {
    "/tokenize": {"content": "hi"},
    "/detokenize": {"tokens": [1]},
    "/apply-template": HELLO,
    COUNT: HELLO,
}


def posted(node: Node, path: str, **body: Any) -> httpx.Response:
    return node.http.post(path, json=body)


def answered(node: Node, path: str, **body: Any) -> Any:
    response = posted(node, path, **body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.clause("TOKEN-1")
@pytest.mark.parametrize("parse_special", [True, False])
def test_a_text_comes_back_from_its_tokens_at_another_node(
    node: Node, other: Node, parse_special: bool
) -> None:
    found = answered(node, "/tokenize", content=AWKWARD, parse_special=parse_special)
    assert answered(other, "/detokenize", tokens=found["tokens"]) == {"content": AWKWARD}


@pytest.mark.clause("TOKEN-1")
def test_special_tokens_are_added_and_recognised_as_asked(node: Node) -> None:
    [first, *added] = answered(node, "/tokenize", content="a<|end|>", add_special=True)["tokens"]
    plain = answered(node, "/tokenize", content="a<|end|>")["tokens"]
    assert (added, len(plain)) == (plain, 2)
    assert answered(node, "/detokenize", tokens=[first]) == {"content": "<|bos|>"}
    spelled = answered(node, "/tokenize", content="a<|end|>", parse_special=False)["tokens"]
    assert len(spelled) > len(plain)


@pytest.mark.clause("TOKEN-1")
def test_a_piece_that_is_no_utf8_is_its_bytes(node: Node) -> None:
    found = answered(node, "/tokenize", content="é<|end|>", with_pieces=True)["tokens"]
    assert [one["piece"] for one in found] == [[0xC3], [0xA9], "<|end|>"]
    half = answered(node, "/detokenize", tokens=[found[0]["id"]])
    assert half == {"content": "\ufffd"}


@pytest.mark.clause("TOKEN-1")
def test_nothing_is_no_tokens_and_no_text(node: Node) -> None:
    assert answered(node, "/tokenize") == answered(node, "/tokenize", content="") == {"tokens": []}
    assert answered(node, "/detokenize") == {"content": ""}


@pytest.mark.clause("TOKEN-1")
def test_a_text_of_over_a_mebibyte_is_refused(node: Node) -> None:
    fits = "<|silent|>" * (2**20 // len("<|silent|>"))
    assert len(answered(node, "/tokenize", content=fits)["tokens"]) == 2**20 // len("<|silent|>")
    response = posted(node, "/tokenize", content="a" * (2**20 + 1))
    assert (response.status_code, "content" in error_of(response)["message"]) == (400, True)


@pytest.mark.clause("TOKEN-2")
def test_a_templates_text_is_the_prompt(node: Node, other: Node) -> None:
    prompt = answered(node, "/apply-template", **HELLO)["prompt"]
    tokens = answered(other, "/tokenize", content=prompt)["tokens"]
    assert tokens == open_scripted_engine().prompt_tokens(HELLO["messages"])


@pytest.mark.clause("TOKEN-3")
@pytest.mark.parametrize("path", [COUNT, COUNT.removeprefix("/v1")])
def test_the_count_is_what_usage_tells(node: Node, other: Node, path: str) -> None:
    words = "[[tokens=2 rate=0]] " + AWKWARD
    count = answered(other, path, **asking(words))
    assert count["object"] == "response.input_tokens"
    usage = node.post(None, words).json()["usage"]
    assert count["input_tokens"] == usage["prompt_tokens"]


@pytest.mark.clause("TOKEN-3")
def test_a_prompt_that_does_not_fit_is_counted(node: Node) -> None:
    words = "\u0001" * 20_000
    refused = error_of(node.post(None, words))
    assert answered(node, COUNT, **asking(words))["input_tokens"] == refused["n_prompt_tokens"]


@pytest.mark.clause("TOKEN-4")
@pytest.mark.parametrize(("path", "body"), ROUTES.items())
def test_neither_slot_nor_session_is_taken(
    node: Node, name: str, occupied: None, path: str, body: dict[str, Any]
) -> None:
    response = node.http.post(path, headers={"X-Conversation-Id": name}, json=body)
    assert response.status_code == 200
    assert node.lookup(name) == []


@pytest.mark.clause("TOKEN-4")
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {"content": ["a"]}, "content"),
        ("/detokenize", {"tokens": [1, "a"]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, 10**6]}, "tokens[1]"),
        ("/apply-template", {}, "messages"),
        (COUNT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    ],
)
def test_a_mistake_is_400_and_names_its_field(
    node: Node, path: str, body: dict[str, Any], field: str
) -> None:
    response = posted(node, path, **body)
    assert (response.status_code, f"'{field}'" in error_of(response)["message"]) == (400, True)


@pytest.mark.clause("TOKEN-4")
@pytest.mark.parametrize(("path", "body"), ROUTES.items())
def test_the_model_is_named_as_for_a_chat(
    node: Node, name: str, ghost: Announce, path: str, body: dict[str, Any]
) -> None:
    ghost({"name": name, "status": "failed"})
    assert posted(node, path, **body).status_code == 400
    assert posted(node, path, **body, model="none").status_code == 400
    response = posted(node, path, **body, model=name)
    assert (response.status_code, response.headers["retry-after"].isdigit()) == (503, True)
