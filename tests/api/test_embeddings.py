"""Embeddings and reranking at one node, whatever a worker answers."""

from __future__ import annotations

import asyncio
import struct
from base64 import b64encode
from typing import Any

import pytest
from node_harness import MODEL, NodeHarness, error_of, memory_node

from api.embeddings import INPUT_BYTES_MAX, INPUTS_PER_REQUEST_MAX, PART_BYTES, PARTS_AT_ONCE, parts
from replay.prepare import INPUTS_MAX, Asked, Embed, Embedded, Prepared, Refused, Rerank, Result

pytestmark = pytest.mark.anyio

OPENAI = "/v1/embeddings"
ROUTES: dict[str, dict[str, Any]] = {
    OPENAI: {"input": "hi"},
    "/embeddings": {"input": "hi"},
    "/embedding": {"content": "hi"},
    "/v1/rerank": {"query": "q", "documents": ["d"]},
    "/v1/reranking": {"query": "q", "documents": ["d"]},
    "/rerank": {"query": "q", "texts": ["d"]},
    "/reranking": {"query": "q", "texts": ["d"]},
}


def packed(*floats: float) -> str:
    return b64encode(struct.pack(f"<{len(floats)}f", *floats)).decode()


ONE = Embedded((packed(0.5, -1.0),), 2, 3)
SCORES = Embedded((packed(0.25), packed(2.0), packed(-1.0)), 1, 9)
DOCUMENTS = ["a", "b", "c"]


async def posted(node: NodeHarness, path: str, result: Result | None, **body: Any) -> Any:
    node.preparer.result = result
    return await node.http.post(path, json=body)


async def test_a_vector_is_answered_as_openai_does(node: NodeHarness) -> None:
    response = await posted(node, OPENAI, ONE, input="hi", model=MODEL)
    assert response.json() == {
        "model": MODEL,
        "object": "list",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "data": [{"embedding": [0.5, -1.0], "index": 0, "object": "embedding"}],
    }
    assert node.preparer.asked == [(MODEL, Embed(("hi",), single=True))]


async def test_base64_is_the_bytes_of_the_floats(node: NodeHarness) -> None:
    response = await posted(node, OPENAI, ONE, input="hi", encoding_format="base64")
    [item] = response.json()["data"]
    assert (item["embedding"], item["encoding_format"]) == (packed(0.5, -1.0), "base64")


@pytest.mark.parametrize("path", ["/embeddings", "/embedding", OPENAI])
async def test_a_vector_is_answered_as_llama_cpp_does(node: NodeHarness, path: str) -> None:
    response = await posted(node, path, ONE, content="hi")
    assert response.json() == [{"index": 0, "embedding": [[0.5, -1.0]]}]
    assert node.preparer.asked == [(MODEL, Embed(("hi",)))]


async def test_each_tokens_vector_is_one_of_several(node: NodeHarness) -> None:
    two = Embedded((packed(0.5, -1.0, 2.0, 3.0),), 2, 2)
    response = await posted(node, "/embedding", two, content="hi")
    assert response.json() == [{"index": 0, "embedding": [[0.5, -1.0], [2.0, 3.0]]}]


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("hi", ("hi",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        (["a", [2, 3]], ("a", (2, 3))),
        ([1, "a", 2], ((1, "a", 2),)),
        ([{"prompt_string": "a"}, {"type": "text", "text": "b"}], ("a", "b")),
        ({"prompt_string": "a"}, ("a",)),
        ({"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}, ("a b",)),
        (["a", {"content": [{"type": "text", "text": "b"}]}], ("a", "b")),
    ],
)
async def test_inputs_come_in_any_form(node: NodeHarness, given: Any, inputs: Any) -> None:
    answer = Embedded((packed(1.0),) * len(inputs), 1, 1)
    response = await posted(node, OPENAI, answer, input=given)
    assert [item["index"] for item in response.json()["data"]] == list(range(len(inputs)))
    assert node.preparer.asked == [(MODEL, Embed(inputs, single=True))]


async def test_the_vector_is_asked_for_as_the_client_wants_it(node: NodeHarness) -> None:
    await posted(node, "/embedding", ONE, input="a", dimensions=2, embd_normalize=-1)
    assert node.preparer.asked == [(MODEL, Embed(("a",), normalize=-1, dimensions=2))]


async def test_many_inputs_are_asked_about_in_parts_and_keep_their_order() -> None:
    class Counting:
        """Answers an input with its length."""

        async def ask(self, model: str, asked: Asked) -> Result:
            assert isinstance(asked, Embed) and len(asked.inputs) <= INPUTS_MAX
            return Embedded(tuple(packed(float(len(one))) for one in asked.inputs), 1, 1)

    async with memory_node() as node:
        object.__setattr__(node.app.state.node, "preparer", Counting())
        inputs = ["x" * number for number in range(1, 101)]
        response = await node.http.post(OPENAI, json={"input": inputs})
    assert [item["embedding"] for item in response.json()["data"]] == [[n] for n in range(1, 101)]
    assert response.json()["usage"]["prompt_tokens"] == 4


def test_a_part_has_so_many_inputs_and_bytes() -> None:
    assert list(map(len, parts(["a"] * (INPUTS_MAX + 1)))) == [INPUTS_MAX, 1]
    half = "x" * (PART_BYTES // 2)
    assert list(map(len, parts([half, half, "a", half + half + "b", "c"]))) == [2, 1, 1, 1]
    assert list(map(len, parts([(1,) * (PART_BYTES // 4), "a"]))) == [1, 1]


async def test_documents_come_back_the_most_relevant_first(node: NodeHarness) -> None:
    response = await posted(node, "/v1/rerank", SCORES, query="q", documents=DOCUMENTS)
    assert response.json() == {
        "model": MODEL,
        "object": "list",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
        "results": [
            {"index": 1, "relevance_score": 2.0},
            {"index": 0, "relevance_score": 0.25},
            {"index": 2, "relevance_score": -1.0},
        ],
    }
    assert node.preparer.asked == [(MODEL, Rerank("q", ("a", "b", "c")))]


@pytest.mark.parametrize(("top_n", "indices"), [(0, []), (2, [1, 0]), (9, [1, 0, 2])])
async def test_only_the_best_are_answered(
    node: NodeHarness, top_n: int, indices: list[int]
) -> None:
    asked = {"query": "q", "documents": DOCUMENTS, "top_n": top_n}
    response = await posted(node, "/rerank", SCORES, **asked)
    assert [one["index"] for one in response.json()["results"]] == indices


async def test_texts_are_ranked_as_tei_does(node: NodeHarness) -> None:
    response = await posted(node, "/rerank", SCORES, query="q", texts=DOCUMENTS, top_n=1)
    assert response.json() == [{"index": 1, "score": 2.0}]
    asked = {"query": "q", "texts": DOCUMENTS, "top_n": 1, "return_text": True}
    response = await posted(node, "/rerank", SCORES, **asked)
    assert response.json() == [{"index": 1, "score": 2.0, "text": "b"}]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (OPENAI, {}, '"input" or "content" must be provided'),
        (OPENAI, {"input": []}, '"input" must not be empty'),
        (OPENAI, {"input": True}, "'input'"),
        (OPENAI, {"input": ["a", True]}, "'input[1]'"),
        (OPENAI, {"input": ["a", []]}, "'input[1]'"),
        (OPENAI, {"input": [1, -1]}, "'input[1]'"),
        (OPENAI, {"input": [1.5]}, "'input[0]'"),
        (OPENAI, {"input": [{"type": "image"}]}, "'input[0].prompt_string'"),
        (OPENAI, {"input": {"content": "a"}}, "'input.content'"),
        (OPENAI, {"input": {"content": []}}, "'input.content'"),
        (OPENAI, {"input": {"content": [{"type": "image_url"}]}}, "'input.content[0].type'"),
        (OPENAI, {"input": {"content": [{"type": "text"}]}}, "'input.content[0].text'"),
        (OPENAI, {"input": {"prompt_string": "a", "multimodal_data": ["x"]}}, "multimodal_data"),
        (OPENAI, {"input": "a", "encoding_format": "hex"}, "Can be either float or base64"),
        (OPENAI, {"input": "a", "encoding_format": 7}, "'encoding_format'"),
        (OPENAI, {"input": "a", "dimensions": 0}, "'dimensions'"),
        (OPENAI, {"input": "a", "dimensions": "2"}, "'dimensions'"),
        (OPENAI, {"input": "a", "embd_normalize": "l2"}, "'embd_normalize'"),
        ("/embedding", {"content": ["a", 7.5]}, "'content[1]'"),
        ("/embedding", {"input": "a", "encoding_format": "base64"}, "'encoding_format'"),
        ("/rerank", {"documents": ["a"]}, '"query" must be provided'),
        ("/rerank", {"query": 7, "documents": ["a"]}, '"query" must be a string'),
        ("/rerank", {"query": "q"}, '"documents" must be a non-empty string array'),
        ("/rerank", {"query": "q", "documents": []}, '"documents" must be a non-empty'),
        ("/rerank", {"query": "q", "documents": "a"}, '"documents" must be a non-empty'),
        ("/rerank", {"query": "q", "texts": ["a", 7]}, '"texts" must be a non-empty'),
        ("/rerank", {"query": "q", "documents": ["a"], "top_n": "2"}, "'top_n'"),
    ],
)
async def test_a_mistake_is_named_before_anybody_is_asked(
    node: NodeHarness, path: str, body: dict[str, Any], words: str
) -> None:
    response = await node.http.post(path, json=body)
    assert response.status_code == 400
    assert words in error_of(response)["message"]
    assert node.preparer.asked == []


@pytest.mark.parametrize(
    ("path", "field", "other"), [(OPENAI, "input", {}), ("/rerank", "documents", {"query": "q"})]
)
async def test_a_request_has_so_many_inputs_and_bytes(
    node: NodeHarness, path: str, field: str, other: dict[str, str]
) -> None:
    for inputs in (["a"] * (INPUTS_PER_REQUEST_MAX + 1), ["é" * (INPUT_BYTES_MAX // 2), "a"]):
        response = await node.http.post(path, json={**other, field: inputs})
        assert (response.status_code, f"'{field}'" in response.text) == (400, True)


@pytest.mark.parametrize(("path", "body"), ROUTES.items())
@pytest.mark.parametrize(
    ("result", "status", "kind"),
    [
        (None, 503, "unavailable_error"),
        (Refused("unsupported", "set it"), 501, "not_supported_error"),
        (Refused("engine", "oops"), 500, "server_error"),
        (Refused("invalid", "no", param="input"), 400, "invalid_request_error"),
        (Prepared((1,), 1), 503, "unavailable_error"),
    ],
)
async def test_what_a_worker_refuses(
    node: NodeHarness,
    path: str,
    body: dict[str, Any],
    result: Result | None,
    status: int,
    kind: str,
) -> None:
    response = await posted(node, path, result, **body)
    assert (response.status_code, error_of(response)["type"]) == (status, kind)


async def test_a_refused_part_is_the_end_of_the_request() -> None:
    asked: list[Asked] = []

    class Refusing:
        async def ask(self, model: str, question: Asked) -> Result:
            asked.append(question)
            await asyncio.sleep(0.01)
            return Refused("engine", "oops")

    async with memory_node() as node:
        object.__setattr__(node.app.state.node, "preparer", Refusing())
        response = await node.http.post(OPENAI, json={"input": ["a"] * (100 * INPUTS_MAX // 2)})
    assert (response.status_code, len(asked) <= 2 * PARTS_AT_ONCE) == (500, True)
