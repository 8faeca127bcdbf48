"""Tokens, templates and counting at one node, whatever a worker answers."""

from __future__ import annotations

from typing import Any

import pytest
from node_harness import HELLO, MODEL, NodeHarness, error_of, memory_node, model, worker

from api import tokens
from replay.prepare import (
    Chat,
    Detokenize,
    Prepared,
    Refused,
    Render,
    Result,
    Text,
    Tokenize,
    Tokenized,
)

pytestmark = pytest.mark.anyio

COUNT = "/v1/chat/completions/input_tokens"
ROUTES: dict[str, dict[str, Any]] = {
    "/tokenize": {"content": "hi"},
    "/detokenize": {"tokens": [1]},
    "/apply-template": {"messages": HELLO},
    COUNT: {"messages": HELLO},
}


async def asked(node: NodeHarness, path: str, result: Result | None, **body: Any) -> Any:
    node.preparer.result = result
    return await node.http.post(path, json=body)


@pytest.mark.parametrize(
    ("body", "question"),
    [
        ({"content": "hi"}, Tokenize("hi")),
        ({"content": "", "add_special": True}, Tokenize("", add_special=True)),
        ({"content": "é", "parse_special": False}, Tokenize("é", parse_special=False)),
        ({"content": "hi", "add_special": None, "colour": 1}, Tokenize("hi")),
    ],
)
async def test_a_text_is_tokenized_as_asked(
    node: NodeHarness, body: dict[str, Any], question: Tokenize
) -> None:
    response = await asked(node, "/tokenize", Tokenized((5, 6)), **body)
    assert (response.status_code, response.json()) == (200, {"tokens": [5, 6]})
    assert node.preparer.asked == [(MODEL, question)]


async def test_each_token_is_told_with_its_piece(node: NodeHarness) -> None:
    result = Tokenized((5, 6), ("語", [0xC3]))
    response = await asked(node, "/tokenize", result, content="hi", with_pieces=True)
    assert response.json() == {"tokens": [{"id": 5, "piece": "語"}, {"id": 6, "piece": [195]}]}


async def test_no_content_has_no_tokens(node: NodeHarness) -> None:
    response = await asked(node, "/tokenize", None)
    assert (response.json(), node.preparer.asked) == ({"tokens": []}, [])


@pytest.mark.parametrize("body", [{"tokens": [0, 7]}, {"tokens": []}, {}])
async def test_tokens_are_text_again(node: NodeHarness, body: dict[str, Any]) -> None:
    response = await asked(node, "/detokenize", Text("語\ufffd"), **body)
    assert response.json() == {"content": "語\ufffd"}
    assert node.preparer.asked == [(MODEL, Detokenize(tuple(body.get("tokens", ()))))]


async def test_a_template_is_applied(node: NodeHarness) -> None:
    response = await asked(node, "/apply-template", Text("user: hi"), messages=HELLO)
    assert response.json() == {"prompt": "user: hi"}
    assert node.preparer.asked == [(MODEL, Render(tuple(HELLO)))]


@pytest.mark.parametrize("path", [COUNT, COUNT.removeprefix("/v1")])
@pytest.mark.parametrize(
    "result",
    [Prepared((1, 2, 3), 512), Refused("context", "", prompt_tokens=3, context_tokens=2)],
)
async def test_a_prompt_is_counted_fit_it_or_not(
    node: NodeHarness, path: str, result: Result
) -> None:
    response = await asked(node, path, result, messages=HELLO)
    assert response.json() == {"object": "response.input_tokens", "input_tokens": 3}
    assert node.preparer.asked == [(MODEL, Chat(tuple(HELLO)))]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {"content": 7}, "content"),
        ("/tokenize", {"content": ["a"]}, "content"),
        ("/tokenize", {"content": "é" * (tokens.TEXT_BYTES_MAX // 2 + 1)}, "content"),
        ("/tokenize", {"content": "a", "add_special": 1}, "add_special"),
        ("/tokenize", {"content": "a", "parse_special": "no"}, "parse_special"),
        ("/tokenize", {"with_pieces": []}, "with_pieces"),
        ("/tokenize", {"content": "a", "model": 7}, "model"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1, "a"]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, True]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1.0]}, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [2**31]}, "tokens[0]"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/apply-template", {"messages": HELLO, "tools": [{}]}, "tools[0].type"),
        (COUNT, {"messages": "hi"}, "messages"),
    ],
)
async def test_a_mistake_is_named_before_anybody_is_asked(
    node: NodeHarness, path: str, body: dict[str, Any], field: str
) -> None:
    response = await node.http.post(path, json=body)
    assert response.status_code == 400
    assert f"'{field}'" in error_of(response)["message"]
    assert node.preparer.asked == []


async def test_more_tokens_than_a_worker_takes_are_refused(
    node: NodeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "TOKENS_MAX", 2)
    assert (await asked(node, "/detokenize", Text("ab"), tokens=[1, 2])).status_code == 200
    assert (await asked(node, "/detokenize", Text("abc"), tokens=[1, 2, 3])).status_code == 400


@pytest.mark.parametrize(("path", "body"), ROUTES.items())
async def test_a_body_has_a_limit_and_must_be_an_object(path: str, body: dict[str, Any]) -> None:
    async with memory_node(body_bytes_max=100) as node:
        large = await node.http.post(path, json={**body, "x": "x" * 100})
        assert large.status_code == 413
        assert (await node.http.post(path, content=b"[]")).status_code == 400
        assert (await node.http.post(path, content=b'{"content":"\xff"}')).status_code == 400


@pytest.mark.parametrize(("path", "body"), ROUTES.items())
@pytest.mark.parametrize(
    ("result", "status"),
    [
        (None, 503),
        (Refused("unknown", "what?"), 503),
        (Refused("engine", "oops"), 500),
        (Refused("invalid", "no", param="messages"), 400),
    ],
)
async def test_what_a_worker_refuses(
    node: NodeHarness, path: str, body: dict[str, Any], result: Result | None, status: int
) -> None:
    response = await asked(node, path, result, **body)
    assert response.status_code == status
    assert response.headers.get("retry-after") == ("1" if status == 503 else None)
    error_of(response)


@pytest.mark.parametrize(("path", "body"), ROUTES.items())
async def test_an_answer_to_another_question_is_503(
    node: NodeHarness, path: str, body: dict[str, Any]
) -> None:
    other: Result = Text("hi") if path in ("/tokenize", COUNT) else Prepared((1,), 1)
    assert (await asked(node, path, other, **body)).status_code == 503


@pytest.mark.parametrize(("path", "body"), ROUTES.items())
async def test_the_model_is_chosen_as_for_a_chat(
    node: NodeHarness, path: str, body: dict[str, Any]
) -> None:
    node.workers.records = [worker("w1", model(MODEL), model("other"))]
    assert (await node.http.post(path, json=body)).status_code == 400
    assert (await node.http.post(path, json={**body, "model": "none"})).status_code == 400
    assert (await asked(node, path, None, **body, model="other")).status_code == 503
    assert [model for model, _ in node.preparer.asked] == ["other"]
    node.workers.records = []
    node.forget_picture()
    assert (await node.http.post(path, json=body)).status_code == 503
