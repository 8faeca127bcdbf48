"""The API's document as a page: what its node serves of it, to whom, and under which policy."""

from __future__ import annotations

import re

import pytest
from node_harness import NodeHarness, memory_node

pytestmark = pytest.mark.anyio


async def test_the_page_and_all_that_it_names_are_served_without_a_key() -> None:
    async with memory_node(api_keys="k", root_path="/deep") as guarded:
        page = await guarded.http.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert '<base href="/deep/">' in page.text
        named = re.findall(r'(?:href|src)="(docs/[^"]+)"', page.text)
        assert len(named) == 3
        for one in (*named, "openapi.json"):
            response = await guarded.http.get(f"/{one}")
            assert response.status_code == 200 and len(response.content) > 100


async def test_nothing_of_it_is_anywhere_else(node: NodeHarness) -> None:
    page = (await node.http.get("/docs")).text + (await node.http.get("/docs/start.js")).text
    assert "//" not in page
    assert (await node.http.get("/docs/page.html")).status_code == 404
