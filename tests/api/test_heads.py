"""HEAD: the answer of GET less its body, for the same keys and links."""

from __future__ import annotations

import asyncio

import pytest
from node_harness import NodeHarness, memory_node

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/props", "/slots"])
async def test_every_get_has_its_head(node: NodeHarness, path: str) -> None:
    response, whole = await node.http.head(path), await node.http.get(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == whole.headers["content-type"]


async def test_a_route_without_a_get_has_no_head(node: NodeHarness) -> None:
    assert (await node.http.head("/v1/chat/completions")).status_code == 404


async def test_the_head_of_a_live_session_waits_for_nothing(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.say("one")
    response = await asyncio.wait_for(node.http.head("/v1/stream/c"), 5)
    assert response.headers["X-Stream-State"] == "running"
    await producer.complete()
    assert (await posting).status_code == 200


async def test_a_key_and_a_link_that_read_take_the_head_too() -> None:
    key = {"Authorization": "Bearer one"}
    async with memory_node(api_keys="one", link_secrets="a secret of sixteen") as node:
        node.http.headers.update(key)
        await node.answered("c")
        told = (await node.http.post("/v1/streams/links", json={"conversation_id": "c"})).json()
        del node.http.headers["Authorization"]
        assert (await node.http.head("/v1/models")).status_code == 401
        assert (await node.http.head(told["url"])).status_code == 200
        assert (await node.http.head(told["url"] + "x")).status_code == 403
