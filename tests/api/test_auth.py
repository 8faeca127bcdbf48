"""Keys: who comes in, and that nobody sees another's sessions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from node_harness import error_of, memory_node, named

from api.auth import credential_of, scope_of
from api.keyring import Scope

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
@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", "/v1/stream?conv_id=c", "/props"])
async def test_without_a_key_everything_is_401(headers: dict[str, str], path: str) -> None:
    async with memory_node(api_keys=KEYS) as node:
        response = await node.http.get(path, headers=headers)
        error = error_of(response)
        assert (error["code"], error["message"]) == (401, "Invalid API Key")
        assert error["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/ready", "/", "/docs", "/openapi.json"])
async def test_health_and_pages_are_public(path: str) -> None:
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


@pytest.mark.parametrize(
    ("scopes", "method", "path", "status"),
    [
        ("read", "GET", "/v1/stream/nowhere", 404),
        ("read", "POST", "/v1/streams/lookup", 200),
        ("read", "GET", "/v1/models", 200),
        ("read", "DELETE", "/v1/stream/nowhere", 403),
        ("read", "POST", "/v1/chat/completions", 403),
        ("read", "POST", "/nowhere", 403),
        ("stop", "DELETE", "/v1/stream/nowhere", 204),
        ("stop", "GET", "/v1/stream/nowhere", 403),
        ("stop", "GET", "/props", 200),
        ("generate", "POST", "/v1/chat/completions", 400),
        ("generate", "POST", "/v1/streams/lookup", 403),
        ("read,stop,generate", "GET", "/slots", 403),
        ("admin", "GET", "/v1/stream/nowhere", 403),
    ],
)
async def test_a_key_may_do_what_its_scopes_say(
    tmp_path: Path, scopes: str, method: str, path: str, status: int
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"one scopes={scopes}\n")
    async with memory_node(api_keys_file=file) as node:
        headers = {"X-Api-Key": "one"}
        response = await node.http.request(method, path, headers=headers, json={})
        assert response.status_code == status
        if status == 403:
            assert error_of(response)["type"] == "permission_error"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/responses/resp_1", Scope.READ),
        ("DELETE", "/v1/responses/resp_1", Scope.STOP),
        ("POST", "/v1/responses/resp_1/cancel", Scope.STOP),
        ("POST", "/v1/chat/completions/control", Scope.STOP),
        ("POST", "/v1/messages", Scope.GENERATE),
        ("PUT", "/v1/whatever", Scope.GENERATE),
        ("GET", "/slots", Scope.ADMIN),
        ("POST", "/slots/0", Scope.ADMIN),
        ("GET", "/slotsx", Scope.READ),
        ("POST", "/models/load", Scope.ADMIN),
        ("DELETE", "/models", Scope.ADMIN),
        ("GET", "/models", None),
        ("GET", "/v1/stream/x/props", Scope.READ),
    ],
)
def test_what_a_route_needs(method: str, path: str, scope: Scope | None) -> None:
    assert scope_of(method, path) is scope


async def test_two_keys_of_one_tenant_see_the_same(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one tenant=acme\ntwo tenant=acme scopes=read\nthree tenant=other\n")
    async with memory_node(api_keys_file=file) as node:
        node.http.headers["Authorization"] = "Bearer one"
        log = await node.answered("c")
        for key, status in (("two", 200), ("three", 404)):
            headers = {"Authorization": f"Bearer {key}"}
            response = await node.http.get("/v1/stream/c", headers=headers)
            assert response.status_code == status
            assert (response.content == log) is (status == 200)


async def test_a_refusal_can_be_read_by_a_page_from_elsewhere() -> None:
    async with memory_node(api_keys=KEYS) as node:
        response = await node.http.get("/v1/models", headers={"Origin": "http://page"})
        assert response.headers["Access-Control-Allow-Origin"] == "http://page"
        exposed = response.headers["Access-Control-Expose-Headers"]
        assert {"Retry-After", "X-Stream-Epoch"} <= set(exposed.split(", "))


def test_the_first_of_two_headers_counts() -> None:
    assert credential_of([(b"authorization", b"a"), (b"authorization", b"b")]) == b"a"
