"""Thinking: told apart, limited, gone on with, and ended by order on whatever worker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis

from .frail import Frail
from .stored import stored
from .wire import Exchange, Node, asking, error_of, events, text_of

CONTROL = "/v1/chat/completions/control"
THOUGHT = "let me see: 2 + 2 is 4"
SAYS = f"[[rate=0]][[say]]<think>\n{THOUGHT}\n</think>\n\nfour[[/say]]"
LONG = "[[say]]<think>" + 200 * "so " + "</think>" + 50 * "four " + "[[/say]]"
FORCED = 1


def thought_of(parts: list[dict[str, Any]]) -> str:
    """What the chat chunks say of the thought."""
    choices = [choice for part in parts for choice in part.get("choices", ())]
    return "".join(choice["delta"].get("reasoning_content") or "" for choice in choices)


def streamed(node: Node, words: str, **fields: Any) -> tuple[str, str]:
    """Thought and content of a stream."""
    told = events(node.post(None, words, stream=True, **fields).content)
    return thought_of(told), text_of(told)


def folded(node: Node, words: str, **fields: Any) -> tuple[str, str]:
    """Thought and content of an answer that is not streamed."""
    message = node.post(None, words, **fields).json()["choices"][0]["message"]
    return message.get("reasoning_content", ""), message["content"]


def prompt_of(node: Node, *messages: dict[str, Any], **fields: Any) -> str:
    response = node.http.post("/apply-template", json={"messages": messages, **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["prompt"])


def mistake(node: Node, **fields: Any) -> str:
    response = node.post(None, "hi", **fields)
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")
    return str(error_of(response)["message"])


@pytest.mark.clause("REASON-1")
def test_a_thought_is_told_apart_from_the_content(node: Node, other: Node, name: str) -> None:
    log = node.post(name, SAYS, stream=True).content
    told = events(log)
    assert (thought_of(told), text_of(told)) == (THOUGHT, "four")
    kinds = [next(iter(part["choices"][0]["delta"]), "") for part in told]
    assert kinds == sorted(kinds, key=["role", "reasoning_content", "content", ""].index)
    assert other.read(name).content == log
    assert folded(node, SAYS) == (THOUGHT, "four")
    opened = SAYS.replace("<think>", "")
    assert folded(node, opened, chat_template_kwargs={"opens_thought": True}) == (THOUGHT, "four")


@pytest.mark.clause("REASON-1")
def test_the_format_says_where_a_thought_is_shown(node: Node) -> None:
    whole = f"<think>\n{THOUGHT}\n</think>\n\nfour"
    for form in ("auto", "deepseek"):
        assert streamed(node, SAYS, reasoning_format=form) == (THOUGHT, "four")
    for ask in (streamed, folded):
        assert ask(node, SAYS, reasoning_format="none") == ("", whole)
    assert streamed(node, SAYS, reasoning_format="deepseek-legacy") == ("", whole)
    assert folded(node, SAYS, reasoning_format="deepseek-legacy") == (THOUGHT, whole)
    assert "reasoning_format" in mistake(node, reasoning_format="loud")


@pytest.mark.clause("REASON-2")
def test_a_model_that_is_not_to_think_is_told_so(node: Node) -> None:
    user = {"role": "user", "content": "hi"}
    opens = {"opens_thought": True}
    assert prompt_of(node, user, chat_template_kwargs=opens).endswith("assistant:<think>")
    for fields in (
        {"chat_template_kwargs": {**opens, "enable_thinking": False}},
        {"chat_template_kwargs": opens, "reasoning_effort": "none"},
    ):
        assert prompt_of(node, user, **fields).endswith("assistant:")
    assert "enable_thinking" in mistake(node, chat_template_kwargs={"enable_thinking": "no"})
    assert "reasoning_effort" in mistake(node, reasoning_effort="some")


@pytest.mark.clause("REASON-3")
def test_a_budget_ends_a_thought_with_its_message(node: Node) -> None:
    limits = {"reasoning_budget_tokens": 9, "reasoning_budget_message": "(enough)"}
    thought, content = streamed(node, LONG, max_tokens=60, **limits)
    assert thought == "so so so (enough)" and content
    opened = {"chat_template_kwargs": {"opens_thought": True}, "thinking_budget_tokens": 0}
    thought, content = folded(node, SAYS.replace("<think>", ""), **opened)
    assert (thought, content[:3]) == ("", "see")
    assert "reasoning_budget_tokens" in mistake(node, reasoning_budget_tokens=-2)


@pytest.mark.clause("REASON-3")
def test_a_worker_that_dies_while_it_ends_a_thought_is_gone_on_for(frail: Frail, name: str) -> None:
    limits = {"reasoning_budget_tokens": 3, "reasoning_budget_message": "(enough)", "model": "one"}
    words = "[[rate=20]]" + LONG
    node = frail.nodes[0]
    with node.posting(name, words, max_tokens=40, **limits) as post:
        post.containing(b"(")
        frail.kill("worker-1")
        told = events(post.whole())
    assert thought_of(told) == "so (enough)"
    whole = node.post(None, LONG, max_tokens=40, **limits).json()["choices"][0]["message"]
    assert text_of(told) == whole["content"] != ""
    assert stored(frail.db, name).takeovers >= 1


@pytest.mark.clause("REASON-4")
def test_a_thought_goes_on_where_the_client_wants_it(node: Node) -> None:
    words = "[[rate=0]][[say]] is 4</think>four[[/say]]"
    begun = [
        *asking(words)["messages"],
        {"role": "assistant", "reasoning_content": "2 + 2", "content": "ignored"},
    ]
    explicit = {"continue_final_message": "reasoning_content", "add_generation_prompt": False}
    fields: dict[str, Any] = {"messages": begun, **explicit}
    assert prompt_of(node, *begun, **explicit).endswith("assistant:<think>2 + 2")
    assert streamed(node, "", **fields) == (" is 4", "four")
    assert streamed(node, "", echo=True, **fields) == ("2 + 2 is 4", "four")
    assert folded(node, "", **fields) == ("2 + 2 is 4", "four")
    assert prompt_of(node, *begun).endswith("assistant:<think>2 + 2</think>ignored")
    del begun[-1]["reasoning_content"]
    assert "continue_final_message" in mistake(node, **fields)


def ordered(node: Node, **body: Any) -> tuple[int, dict[str, Any]]:
    response = node.http.post(CONTROL, json={"action": "reasoning_end", **body})
    return response.status_code, response.json()


def thinking(post: Exchange) -> str:
    """The id of a completion, once it thinks."""
    data = post.containing(b"reasoning_content")
    return str(json.loads(data.split(b"\n\n")[0].removeprefix(b"data: "))["id"])


GONE = (200, {"success": False, "message": "no active completion for this id"})
DISABLED = (
    200,
    {"success": False, "message": "reasoning control not enabled for this completion"},
)


@pytest.mark.clause("REASON-5")
def test_an_order_at_any_node_ends_the_thought(
    node: Node, other: Node, name: str, db: Redis
) -> None:
    with node.posting(name, LONG, reasoning_control=True, max_tokens=150) as post:
        completion_id = thinking(post)
        assert ordered(other, id=completion_id) == (200, {"success": True})
        post.containing(b'"delta":{"content":"')
        assert ordered(node, id=completion_id) == (200, {"success": True})
        told = events(post.whole())
    assert thought_of(told) and text_of(told)
    assert ordered(other, id=completion_id) == GONE
    tokens = db.get(stored(db, name).keys.tokens)
    flags = [int.from_bytes(tokens[at + 6 : at + 8], "little") for at in range(0, len(tokens), 8)]
    assert sum(flag & FORCED for flag in flags) == len("</think>")


@pytest.mark.clause("REASON-5")
def test_an_order_outlives_the_worker_that_it_was_given_to(frail: Frail, name: str) -> None:
    node, other = frail.nodes
    words = "[[rate=20]]" + LONG
    fields = {"reasoning_control": True, "max_tokens": 100, "model": "one"}
    with node.posting(name, words, **fields) as post:
        completion_id = thinking(post)
        frail.kill("worker-1")
        assert ordered(other, id=completion_id) == (200, {"success": True})
        told = events(post.whole())
    assert text_of(told) != "" and len(thought_of(told)) < 100


@pytest.mark.clause("REASON-5")
def test_what_cannot_be_ordered_is_said(node: Node, name: str) -> None:
    with node.posting(name, LONG, max_tokens=400) as post:
        assert ordered(node, id=thinking(post)) == DISABLED
    assert ordered(node, id="chatcmpl-nobody") == GONE
    for body, message in (
        ({}, "missing completion id"),
        ({"id": "", "action": "x"}, "missing completion id"),
        ({"id": "x", "action": "x"}, "unknown control action"),
    ):
        status, told = ordered(node, **body)
        assert (status, told["error"]["message"]) == (400, message)
