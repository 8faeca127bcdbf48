"""The API's document as a browser shows it: whole, from its node alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from deploy.local.cluster import Cluster

ORIGIN = "http://replay.test"
"""No local name: such ones a page may spare what it else fetches."""

SHOWN_MS = 30_000
Scheme = Literal["light", "dark"]


@pytest.fixture
def opened(browser: Browser, running_cluster: Cluster) -> Iterator[Callable[[Scheme], Page]]:
    """Opens the page in a colour scheme; whatever it asks for elsewhere, or complains of, fails."""
    node, elsewhere, complaints, pages = running_cluster.nodes[0], [], [], []

    def answer(route: Route) -> None:
        url = route.request.url
        if url.startswith(f"{ORIGIN}/"):
            route.fulfill(response=route.fetch(url=node + url.removeprefix(ORIGIN)))
        else:
            elsewhere.append(url)
            route.abort()

    def open_page(scheme: Scheme) -> Page:
        context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900})
        page = context.new_page()
        pages.append(page)
        page.route("**/*", answer)
        page.on("console", lambda told: complaints.append(told.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{ORIGIN}/docs")
        return page

    yield open_page
    for page in pages:
        page.unroute_all(behavior="wait")
        page.context.close()
    assert (elsewhere, complaints) == ([], [])


@pytest.mark.clause("DOC-1")
def test_every_route_is_shown(opened: Callable[[Scheme], Page], running_cluster: Cluster) -> None:
    document: dict[str, Any] = httpx.get(f"{running_cluster.nodes[0]}/openapi.json").json()
    page = opened("light")
    expect(page.locator(".opblock")).to_have_count(
        sum(len(methods) for methods in document["paths"].values()), timeout=SHOWN_MS
    )
    page.get_by_text("/v1/chat/completions", exact=True).click()
    example = page.locator(".opblock.is-open .body-param__example")
    expect(example).to_be_visible(timeout=SHOWN_MS)


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_it_is_as_dark_as_the_system(
    opened: Callable[[Scheme], Page], scheme: Scheme, is_dark: bool
) -> None:
    path = opened(scheme).locator(".opblock-summary-path").first
    ink = path.evaluate("(it) => getComputedStyle(it).color.match(/\\d+/g).slice(0, 3).map(Number)")
    assert (min(ink) > 128) == is_dark
