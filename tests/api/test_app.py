"""What holds for every route: CORS, unknown routes, errors nobody thought of."""

from __future__ import annotations

from typing import Any

import pytest
from node_harness import NodeHarness, error_of, memory_node

from api.app import EXPOSED_HEADERS, keep_alive
from api.catalog import Catalog
from replay.errors import LogUnavailable
from replay.identity import SessionRef

pytestmark = pytest.mark.anyio

ORIGIN = {"Origin": "https://page.example"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nowhere"),
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/stream"),
        ("POST", "/health"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/"),
    ],
)
async def test_what_is_not_there_is_404_and_named(
    node: NodeHarness, method: str, path: str
) -> None:
    error = error_of(await node.http.request(method, path))
    assert (error["code"], error["type"]) == (404, "not_found_error")
    assert error["message"] == f"there is no {method} {path}"


async def test_an_error_nobody_thought_of_is_500_and_tells_nothing(
    node: NodeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: Any, **more: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(node.log, "resolve", broken)
    response = await node.http.get("/v1/stream/c", headers=ORIGIN)
    error = error_of(response)
    assert (error["code"], error["type"]) == (500, "server_error")
    assert "secret" not in error["message"]
    assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_without_redis_it_is_503(
    node: NodeHarness, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*args: Any, **more: Any) -> None:
        raise LogUnavailable("resolve")

    for name in ("resolve", "stop"):
        monkeypatch.setattr(node.log, name, away)
    response = await node.http.request(method, "/v1/stream/c")
    assert (response.status_code, error_of(response)["reason"]) == (503, "redis")
    assert response.headers["retry-after"] == "1"


@pytest.mark.clause("CORS-1")
async def test_a_browser_elsewhere_may_call_and_read_the_headers(node: NodeHarness) -> None:
    response = await node.http.get("/v1/models", headers=ORIGIN)
    assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]
    assert response.headers["access-control-allow-credentials"] == "true"
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert set(exposed) == set(EXPOSED_HEADERS)


@pytest.mark.clause("CORS-1")
async def test_an_error_too_is_readable_elsewhere() -> None:
    async with memory_node(api_keys="k") as node:
        response = await node.http.get("/v1/models", headers=ORIGIN)
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]


@pytest.mark.clause("CORS-1")
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_preflight_is_granted_without_a_key(method: str) -> None:
    async with memory_node(api_keys="k") as node:
        asked = {
            **ORIGIN,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,x-conversation-id",
        }
        response = await node.http.options("/v1/chat/completions", headers=asked)
        assert response.status_code == 200
        assert method in response.headers["access-control-allow-methods"]
        allowed = response.headers["access-control-allow-headers"]
        assert "x-conversation-id" in allowed


@pytest.mark.clause("CORS-1")
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("http://localhost:5173", True), ("http://[::1]:1", True), ("https://localhost.evil", False)],
)
async def test_origins_may_be_limited_to_this_machine(origin: str, allowed: bool) -> None:
    async with memory_node(cors_origins="localhost") as node:
        response = await node.http.get("/health", headers={"Origin": origin})
        assert ("access-control-allow-origin" in response.headers) is allowed


async def test_a_waiting_session_says_how_it_waits(node: NodeHarness) -> None:
    ref = SessionRef("default", "c", "org/model:Q4", 1)
    catalog = Catalog(node.workers)
    assert await keep_alive(ref, catalog, node.queue) == b":\n\n"
    await node.queue.enqueue(ref, dispatch=2, number=1)
    assert await keep_alive(ref, catalog, node.queue) == b": queued 0\n\n"
