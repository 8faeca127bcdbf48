"""Keys: who comes in, and that nobody sees another's sessions."""

from __future__ import annotations

import asyncio

import pytest
from node_harness import error_of, memory_node, named

from api.auth import Keys, credential_of, tenant_of_key

pytestmark = pytest.mark.anyio

KEYS = "one, two"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer one"},
        {"Authorization": "bearer  one "},
        {"Authorization": "one"},
        {"X-Api-Key": "one"},
        {"Authorization": "", "X-Api-Key": "one"},
    ],
)
async def test_a_key_may_come_in_several_ways(headers: dict[str, str]) -> None:
    async with memory_node(api_keys=KEYS) as node:
        assert (await node.http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer other"},
        {"Authorization": "Basic one"},
        {"Authorization": "Bearer other", "X-Api-Key": "one"},
        {"Authorization": "Bearer one, two"},
        {"X-Api-Key": "ONE"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", "/v1/stream?conv_id=c", "/docs"])
async def test_without_a_key_everything_is_401(headers: dict[str, str], path: str) -> None:
    async with memory_node(api_keys=KEYS) as node:
        response = await node.http.get(path, headers=headers)
        error = error_of(response)
        assert (error["code"], error["message"]) == (401, "Invalid API Key")
        assert error["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/ready", "/"])
async def test_health_and_page_are_public(path: str) -> None:
    async with memory_node(api_keys=KEYS) as node:
        assert (await node.http.get(path)).status_code == 200


async def test_options_are_free() -> None:
    async with memory_node(api_keys=KEYS) as node:
        response = await node.http.options("/v1/chat/completions")
        assert (response.status_code, response.content) == (200, b"")


async def test_any_bearer_is_accepted_where_the_api_is_open() -> None:
    async with memory_node() as node:
        headers = {"Authorization": "Bearer whatever"}
        assert (await node.http.get("/v1/models", headers=headers)).status_code == 200


async def test_a_foreign_session_is_not_there() -> None:
    async with memory_node(api_keys=KEYS) as node:
        node.http.headers["Authorization"] = "Bearer one"
        log = await node.answered("c")
        other = {"Authorization": "Bearer two"}
        asked = {"conversation_ids": ["c"]}
        assert (await node.http.get("/v1/stream/c", headers=other)).status_code == 404
        found = await node.http.post("/v1/streams/lookup", json=asked, headers=other)
        assert found.json() == []
        stopped = await node.http.delete("/v1/stream/c", headers=other)
        assert stopped.status_code == 204 and "x-stream-epoch" not in stopped.headers
        assert (await node.http.get("/v1/stream/c")).content == log


async def test_a_foreign_post_replaces_nothing() -> None:
    async with memory_node(api_keys=KEYS) as node:
        node.http.headers["Authorization"] = "Bearer one"
        log = await node.answered("c")
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        headers = {**named("c"), b"Authorization": b"Bearer two"}
        posting = asyncio.create_task(
            node.http.post("/v1/chat/completions", json=body, headers=headers)
        )
        await (await node.producer()).complete()
        await posting
        assert (await node.http.get("/v1/stream/c")).content == log


def test_a_tenant_does_not_show_its_key() -> None:
    assert tenant_of_key("secret") == "key-2bb80d537b1da3e3"
    assert Keys(["secret"]).tenant(b"secret") == tenant_of_key("secret")
    assert Keys(["secret"]).tenant(b"secre") is None


def test_the_first_of_two_headers_counts() -> None:
    assert credential_of([(b"authorization", b"a"), (b"authorization", b"b")]) == b"a"
