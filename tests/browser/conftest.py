"""A scripted cluster, a balancer that can cut, and Debian's Chromium on the real page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from balancer import Balancer
from chat_page import SOON_MS, ChatPage, OpenPage
from playwright.sync_api import Browser, BrowserContext, ViewportSize, expect, sync_playwright

from deploy.local.cluster import Cluster
from inference_worker.scripted_engine import open_scripted_engine, scripted_answer
from replay.request import SamplingParams

CHROMIUM = "chromium"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WINDOW = ViewportSize(width=1240, height=760)

expect.set_options(timeout=SOON_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a browser."""
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One headless Chromium for a file's tests; each of them gets a context of its own.

    Not for the session: Playwright's event loop runs in this thread for as long, and no other test
    could run one.
    """
    program = shutil.which(CHROMIUM)
    if program is None:
        reason = f"no `{CHROMIUM}` on PATH"
        if os.environ.get("REPLAY_REQUIRE_BROWSER") == "1":
            pytest.fail(f"REPLAY_REQUIRE_BROWSER=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes and a worker whose answers are scripted."""
    with Cluster(tmp_path_factory.mktemp("cluster"), "--engine", "scripted") as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """The cluster, all of it well again after what an earlier test killed."""
    running_cluster.wait_ready()
    return running_cluster


@pytest.fixture
def balancer(cluster: Cluster) -> Iterator[Balancer]:
    """The address that the browser uses; the first node serves while it lives."""
    with Balancer(cluster.nodes) as balancer:
        yield balancer


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser without a past: tabs of one context share their storage."""
    context = browser.new_context(viewport=WINDOW)
    context.set_default_timeout(SOON_MS)
    yield context
    context.close()


@pytest.fixture
def open_page(context: BrowserContext, balancer: Balancer) -> Iterator[OpenPage]:
    """Opens tabs; no test may leave an error of the page's own behind."""
    tabs: list[ChatPage] = []

    def open_tab() -> ChatPage:
        tab = ChatPage(context.new_page(), balancer.url)
        tabs.append(tab)
        tab.open()
        return tab

    yield open_tab
    assert [problem for tab in tabs for problem in tab.problems] == []


@pytest.fixture
def chat(open_page: OpenPage) -> ChatPage:
    """One tab on the empty page."""
    return open_page()


@pytest.fixture
def answer_to() -> Callable[[str], str]:
    """The whole text of the scripted reply to a first message, which must name its seed."""
    engine = open_scripted_engine()

    def answer(words: str) -> str:
        prompt = engine.prompt_tokens([{"role": "user", "content": words}])
        return scripted_answer(prompt, SamplingParams(seed=0))

    return answer
