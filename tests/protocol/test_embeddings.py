"""Vectors and scores over HTTP: no session, no slot, any node."""

from __future__ import annotations

import math
import struct
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from .conftest import URLS, made
from .wire import Node, error_of, until

OPENAI = "/v1/embeddings"
NATIVE = "/embedding"
AWKWARD = "a<|end|>\u0000 🚲e\u0301語\r\n\ufffd"
RERANK = {"query": "q", "documents": ["a", "b!!", "c!"]}


def posted(node: Node, path: str, **body: Any) -> httpx.Response:
    return node.http.post(path, json=body)


def answered(node: Node, path: str, **body: Any) -> Any:
    response = posted(node, path, **body)
    assert response.status_code == 200, response.text
    return response.json()


def vectors(node: Node, given: Any, **fields: Any) -> list[list[float]]:
    data = answered(node, OPENAI, input=given, **fields)["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    return [one["embedding"] for one in data]


@pytest.fixture(scope="module", params=["rank", "none"])
def pooled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A pooling, and a node of a cluster of its own whose worker has it."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: the worker's settings are not ours")
    arguments = ["--api-nodes", "1"]
    folder = tmp_path_factory.mktemp(request.param)
    with made(folder, *arguments, REPLAY_POOLING=request.param) as cluster:
        node = Node(cluster.nodes[0])
        with node.http:
            until(node.is_sure)
            yield request.param, node


@pytest.mark.clause("EMBED-1")
def test_inputs_come_back_in_their_order_on_any_node(node: Node, other: Node) -> None:
    texts = [AWKWARD + "x" * number for number in range(70)]
    answer = answered(node, OPENAI, input=texts)
    assert (answer["object"], answer["model"]) == ("list", node.models()[0]["id"])
    assert [one["object"] for one in answer["data"]] == ["embedding"] * len(texts)
    assert [vectors(other, text)[0] for text in texts[::23]] == vectors(node, texts)[::23]


@pytest.mark.clause("EMBED-1")
def test_text_and_tokens_are_the_same_input(node: Node) -> None:
    tokens = answered(node, "/tokenize", content=AWKWARD, add_special=True)["tokens"]
    forms = [AWKWARD, tokens, {"prompt_string": AWKWARD}, {"type": "text", "text": AWKWARD}]
    [one, *others] = vectors(node, forms)
    assert others == [one] * 3
    assert [vectors(node, form) for form in forms] == [[one]] * 4
    usage = answered(node, OPENAI, input=forms)["usage"]
    assert usage == dict.fromkeys(["prompt_tokens", "total_tokens"], 4 * len(tokens))


@pytest.mark.clause("EMBED-1")
def test_base64_is_the_same_floats(node: Node) -> None:
    [item] = answered(node, OPENAI, input="hi", encoding_format="base64")["data"]
    raw = b64decode(item["embedding"])
    assert [list(struct.unpack(f"<{len(raw) // 4}f", raw))] == vectors(node, "hi")


@pytest.mark.clause("EMBED-2")
def test_a_vector_is_scaled_as_asked(node: Node) -> None:
    [one] = vectors(node, "hi")
    assert math.hypot(*one) == pytest.approx(1, abs=1e-6)
    [raw] = vectors(node, "hi", embd_normalize=-1)
    assert math.hypot(*raw) != pytest.approx(1, abs=1e-6)
    assert [value / math.hypot(*raw) for value in raw] == pytest.approx(one, abs=1e-6)
    assert max(vectors(node, "hi", embd_normalize=0)[0]) == pytest.approx(32760, abs=0.1)
    assert sum(vectors(node, "hi", embd_normalize=1)[0]) == pytest.approx(1, abs=1e-6)
    [cut] = vectors(node, "hi", dimensions=3)
    assert (len(cut), math.hypot(*cut)) == (3, pytest.approx(1, abs=1e-6))


@pytest.mark.clause("EMBED-3")
def test_llama_cpps_routes_answer_in_its_form(node: Node) -> None:
    [one, two] = vectors(node, ["a", "b"])
    native = [{"index": 0, "embedding": [one]}, {"index": 1, "embedding": [two]}]
    assert answered(node, NATIVE, input=["a", "b"]) == native
    assert answered(node, "/embeddings", content=["a", "b"]) == native
    assert answered(node, OPENAI, content=["a", "b"]) == native


@pytest.mark.clause("EMBED-3")
@pytest.mark.clause("EMBED-4")
def test_what_other_poolings_answer(pooled: tuple[str, Node]) -> None:
    pooling, node = pooled
    if pooling == "none":
        [item] = answered(node, NATIVE, content="ab")
        assert len(item["embedding"]) == len(
            answered(node, "/tokenize", content="ab", add_special=True)["tokens"]
        )
        response = posted(node, OPENAI, input="ab")
        assert response.status_code == 400
        assert "Pooling type 'none' is not OAI compatible" in error_of(response)["message"]
        return
    for path in ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking"):
        answer = answered(node, path, **RERANK, top_n=2)
        assert answer["results"] == [
            {"index": 1, "relevance_score": 2.0},
            {"index": 2, "relevance_score": 1.0},
        ]
        assert answer["usage"]["total_tokens"] > 0
    texts = {"query": "q", "texts": RERANK["documents"], "return_text": True}
    assert answered(node, "/rerank", **texts)[0] == {"index": 1, "score": 2.0, "text": "b!!"}


@pytest.mark.clause("EMBED-5")
def test_neither_slot_nor_session_is_taken(node: Node, name: str, occupied: None) -> None:
    response = node.http.post(OPENAI, headers={"X-Conversation-Id": name}, json={"input": "hi"})
    assert (response.status_code, node.lookup(name)) == (200, [])


@pytest.mark.clause("EMBED-5")
def test_a_model_that_does_not_rank_says_what_would(node: Node) -> None:
    response = posted(node, "/v1/rerank", **RERANK)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (501, "not_supported_error")
    assert "does not support reranking" in error["message"] and "REPLAY_POOLING" in error["message"]


@pytest.mark.clause("EMBED-5")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, '"input" or "content" must be provided'),
        ({"input": []}, '"input" must not be empty'),
        ({"input": True}, "'input'"),
        ({"input": ["a"] * 2049}, "'input'"),
        ({"input": "a" * (2**20 + 1)}, "'input'"),
        ({"input": [10**6]}, "no token 1000000"),
        ({"input": "a" * 600}, "is too large to process"),
        ({"input": "a", "dimensions": 10**6}, "'dimensions'"),
        ({"input": "a", "model": "none"}, "model 'none' not found"),
    ],
)
def test_a_mistake_is_400_and_named(node: Node, body: dict[str, Any], words: str) -> None:
    response = posted(node, OPENAI, **body)
    assert (response.status_code, words in error_of(response)["message"]) == (400, True)
