"""The chat page as a person uses it, and what it stored. Elements are found by test ids only.

The page forbids `eval`, which Playwright's `wait_for_function` needs: all waits are on locators.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from playwright.sync_api import Locator, Page, expect

ANSWER_LIMIT_MS = 60_000
SOON_MS = 30_000
"""Bounds of every wait; a machine that is busy with other tests must not fail these."""

READ_ROWS = """
async () => {
  const database = await new Promise((settle, fail) => {
    const request = indexedDB.open('replay-cluster');
    request.onsuccess = () => settle(request.result);
    request.onerror = () => fail(request.error);
  });
  const rows = await new Promise((settle, fail) => {
    const request = database.transaction('messages').objectStore('messages').getAll();
    request.onsuccess = () => settle(request.result);
    request.onerror = () => fail(request.error);
  });
  database.close();
  return rows;
}
"""


class ChatPage:
    """One tab with the page."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def open(self) -> None:
        """Loads the empty page."""
        self.page.goto(self.base)
        expect(self.by("connection")).to_have_attribute("data-reach", "connected")

    def by(self, testid: str) -> Locator:
        """The elements with a test id."""
        return self.page.get_by_test_id(testid)

    def send(self, words: str) -> None:
        """Types a message and sends it."""
        self.by("composer-input").fill(words)
        self.by("composer-input").press("Enter")

    @property
    def state(self) -> Locator:
        """What the newest reply's stream is doing, in its attribute `data-state`."""
        return self.by("stream-state").last

    def expect_state(self, *states: str, limit_ms: float = SOON_MS) -> None:
        """Waits until the newest reply is in one of these states."""
        pattern = re.compile("^(" + "|".join(states) + ")$")
        expect(self.state).to_have_attribute("data-state", pattern, timeout=limit_ms)

    def expect_text(self, words: str) -> None:
        """Waits until the newest reply shows these words."""
        expect(self.by("message-text").last).to_contain_text(words, timeout=ANSWER_LIMIT_MS)

    def shown_text(self) -> str:
        """The newest reply as it is on the screen."""
        return self.by("message-text").last.inner_text()

    def stored_replies(self) -> list[dict[str, Any]]:
        """Every reply in the browser's database, in the order of the rows."""
        rows: list[dict[str, Any]] = self.page.evaluate(READ_ROWS)
        replies = [row for row in rows if row["role"] == "assistant"]
        return sorted(replies, key=lambda row: (row["created_ms"], row["order"]))

    def conversation(self, title: str) -> Locator:
        """The row in the list whose title holds these words."""
        return self.by("conversation").filter(has_text=title)

    def scrolls_sideways(self) -> bool:
        """Whether anything is wider than the window."""
        widths: list[int] = self.page.evaluate(
            "[document.documentElement.scrollWidth, window.innerWidth]"
        )
        return widths[0] > widths[1]


OpenPage: TypeAlias = Callable[[], ChatPage]
