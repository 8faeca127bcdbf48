"""Vertex AI: instances in parallel and in order, each with its own answer or error."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from node_harness import HELLO, NodeHarness, error_of, memory_node

from api.app import ROUTED
from api.config import VertexSettings
from api.vertex import INSTANCES_MAX, add_vertex, one_word
from replay.prepare import Text

pytestmark = pytest.mark.anyio

ROUTERS = [module.router for module in ROUTED]
ON = VertexSettings(mode="PREDICTION", health_route="ping", predict_route="/run/predict")


@pytest.fixture
async def vertex() -> AsyncIterator[NodeHarness]:
    """A node as Vertex AI runs it."""
    async with memory_node() as node:
        add_vertex(node.app, ROUTERS, ON)
        yield node


async def predicted(node: NodeHarness, *instances: Any, **headers: str) -> list[Any]:
    response = await node.http.post(
        "/run/predict", json={"instances": instances, "parameters": {}}, headers=headers
    )
    assert response.status_code == 200, response.text
    predictions: list[Any] = response.json()["predictions"]
    return predictions


def asking(form: Any, **fields: Any) -> dict[str, Any]:
    return {"@requestFormat": form, **fields}


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v1/chat/completions", "chatCompletions"),
        ("/v1/streams/lookup", "streamsLookup"),
        ("/apply-template", "applyTemplate"),
        ("/v1/messages", "messages"),
        ("/health", "health"),
        ("/v1/messages/count_tokens", "messagesCountTokens"),
    ],
)
def test_a_route_is_one_word(path: str, word: str) -> None:
    assert one_word(path) == word


@pytest.mark.clause("VERTEX-1")
async def test_health_has_another_name(vertex: NodeHarness) -> None:
    for path in ("/ping", "/health"):
        assert (await vertex.http.get(path)).json() == {"status": "ok"}


@pytest.mark.clause("VERTEX-2")
async def test_instances_are_answered_in_parallel_and_in_order(vertex: NodeHarness) -> None:
    chat = asking("chatCompletions", messages=HELLO, stream=True)
    predicting = asyncio.create_task(predicted(vertex, chat, chat))
    first, second = await vertex.producer(), await vertex.producer()
    by_id = {first.completion_id: "one", second.completion_id: "two"}
    for producer in (second, first):
        await producer.say(by_id[producer.completion_id])
        await producer.complete()
    predictions = await predicting
    assert [one["choices"][0]["message"]["content"] for one in predictions] == [
        by_id[one["id"]] for one in predictions
    ]
    assert {one["object"] for one in predictions} == {"chat.completion"}


@pytest.mark.clause("VERTEX-2")
async def test_an_error_stands_in_the_place_of_its_instance(vertex: NodeHarness) -> None:
    vertex.preparer.result = Text("prompt")
    found = await predicted(
        vertex,
        "x",
        {"messages": HELLO},
        asking(7),
        asking("nothing"),
        asking("chatCompletions", messages="hi"),
        asking("messages", messages=[], max_tokens=0),
        asking("applyTemplate", messages=HELLO),
        asking("/health"),
        asking("streamsEvents", conversation_ids=["c"]),
    )
    messages = [one["error"]["message"] for one in found[:6]]
    assert messages[0] == "each instance must be a JSON object"
    assert messages[1] == messages[2] == "each instance must include a string @requestFormat"
    assert messages[3] == "no handler registered for @requestFormat: nothing"
    assert "'messages'" in messages[4] and "'max_tokens'" in messages[5]
    assert {one["error"]["code"] for one in found[:6]} == {400}
    assert found[6:8] == [{"prompt": "prompt"}, {"status": "ok"}]
    endless = found[8]["error"]["message"]
    assert endless == "no handler registered for @requestFormat: streamsEvents"


async def test_an_instance_is_asked_under_the_outer_key() -> None:
    async with memory_node(api_keys="k1") as node:
        add_vertex(node.app, ROUTERS, ON)
        assert (await node.http.post("/run/predict", json={"instances": []})).status_code == 401
        assert (await node.http.get("/ping")).status_code == 401
        [found] = await predicted(node, asking("models"), Authorization="Bearer k1")
        assert found["object"] == "list"


async def test_one_instance_may_have_a_name_and_several_may_not(vertex: NodeHarness) -> None:
    chat = asking("chatCompletions", messages=HELLO)
    predicting = asyncio.create_task(predicted(vertex, chat, **{"X-Conversation-Id": "c"}))
    producer = await vertex.producer()
    assert producer.claim.ref.conversation_id == "c"
    await producer.complete()
    await predicting
    predicting = asyncio.create_task(predicted(vertex, chat, chat, **{"X-Conversation-Id": "c"}))
    for producer in (await vertex.producer(), await vertex.producer()):
        assert producer.claim.ref.conversation_id.startswith("~")
        await producer.complete()
    await predicting


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "request body must be a JSON object"),
        ({}, "request body must include an array field named instances"),
        ({"instances": {}}, "request body must include an array field named instances"),
        ({"instances": [1] * (INSTANCES_MAX + 1)}, "instances array exceeds maximum size of 128"),
    ],
)
async def test_a_body_that_is_no_prediction_is_refused(
    vertex: NodeHarness, body: Any, said: str
) -> None:
    response = await vertex.http.post("/run/predict", json=body)
    assert response.status_code == 400
    assert error_of(response)["message"] == said


async def test_a_route_that_is_taken_is_refused(vertex: NodeHarness) -> None:
    with pytest.raises(ValueError, match="/v1/messages"):
        add_vertex(
            vertex.app, ROUTERS, VertexSettings(mode="PREDICTION", predict_route="/v1/messages")
        )
    with pytest.raises(ValueError, match="/health"):
        add_vertex(vertex.app, ROUTERS, VertexSettings(mode="PREDICTION", health_route="health"))


@pytest.mark.clause("VERTEX-1")
@pytest.mark.parametrize("route", ["/predict", "/v1/messages"])
async def test_its_environment_decides_the_port_and_must_take_no_route(route: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = {
            "AIP_MODE": "PREDICTION",
            "AIP_HTTP_PORT": str(port),
            "AIP_PREDICT_ROUTE": route,
            "REPLAY_PORT": "0",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "api",
            env={**os.environ, **told},
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            _, said = await process.communicate()
    assert process.returncode == 1
    *_, last = said.decode().splitlines()
    assert "cannot start" in last
    assert ("in use" if route == "/predict" else route) in last
