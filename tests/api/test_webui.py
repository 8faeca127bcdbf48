"""The page: what is served, how long it may be kept, and that nothing else is in reach."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from node_harness import NodeHarness, error_of, memory_node

from api.app import ROUTED

pytestmark = pytest.mark.anyio

PAGE = "<!doctype html><html><head><title>x</title></head><body></body></html>"
SCRIPT = "export const a = 1;\n" * 100
BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9"}


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[NodeHarness]:
    """A node that serves a small bundle, and asks for a key elsewhere."""
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text(PAGE)
    (dist / "icon.svg").write_text("<svg/>")
    (dist / "assets" / "index-DCYaQmTy.js").write_text(SCRIPT)
    (tmp_path / "secret").write_text("secret")
    async with memory_node(webui_dir=dist, api_keys="k", root_path="/deep") as node:
        yield node


async def test_the_page_is_at_the_root(page: NodeHarness) -> None:
    response = await page.http.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["content-security-policy"].startswith("default-src 'self'")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert '<base href="/deep/">' in response.text


async def test_hashed_files_may_be_kept_for_ever(page: NodeHarness) -> None:
    response = await page.http.get("/assets/index-DCYaQmTy.js")
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in response.headers["cache-control"]
    assert (await page.http.get("/icon.svg")).headers["cache-control"] == "no-cache"


async def test_text_is_compressed_for_those_who_take_it(page: NodeHarness) -> None:
    path = "/assets/index-DCYaQmTy.js"
    packed = await page.http.get(path, headers={"Accept-Encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == SCRIPT  # httpx has unpacked it
    assert int(packed.headers["content-length"]) == len(gzip.compress(SCRIPT.encode(), 9, mtime=0))
    plain = await page.http.get(path, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.text == SCRIPT


async def test_what_has_not_changed_is_304(page: NodeHarness) -> None:
    etag = (await page.http.get("/")).headers["etag"]
    again = await page.http.get("/", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    other = await page.http.get("/", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


async def test_head_has_no_body(page: NodeHarness) -> None:
    response = await page.http.head("/")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["/c/123", "/settings"])
async def test_a_place_within_the_page_is_the_page(page: NodeHarness, path: str) -> None:
    assert "<title>x</title>" in (await page.http.get(path, headers=BROWSER)).text
    assert (await page.http.get(path)).status_code == 401


@pytest.mark.parametrize("path", ["/v1/nowhere", "/models/x", "/docs/x", "/chat/x", "/props/x"])
async def test_the_apis_paths_are_never_the_page(page: NodeHarness, path: str) -> None:
    assert (await page.http.get(path, headers=BROWSER)).status_code == 401


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/assets/../../secret"])
async def test_nothing_beside_the_bundle_is_in_reach(page: NodeHarness, path: str) -> None:
    response = await page.http.get(path)
    assert response.status_code == 401 and "secret" not in response.text


async def test_without_a_bundle_the_root_says_how_to_build_it(node: NodeHarness) -> None:
    response = await node.http.get("/")
    assert response.status_code == 200 and "make webui" in response.text
    assert error_of(await node.http.get("/assets/x.js"))["code"] == 404


GETS = sorted(
    {
        route.path
        for module in ROUTED
        for route in module.router.routes
        if isinstance(route, APIRoute) and "GET" in route.methods
    }
)


@pytest.mark.parametrize("path", GETS)
async def test_a_browser_that_asks_for_the_api_gets_no_page(page: NodeHarness, path: str) -> None:
    response = await page.http.get(path, headers=BROWSER)
    assert "<!doctype html>" not in response.text
