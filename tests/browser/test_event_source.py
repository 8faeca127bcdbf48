"""Chromium's own EventSource: its reconnect resumes where it was cut, and stops at the end."""

from __future__ import annotations

import json
import time
from typing import Any

from balancer import Balancer
from chat_page import ChatPage
from playwright.sync_api import Page

WAIT_S = 60.0
LOOK_MS = 20.0
ASK = "Follow me [[tokens=1200 rate=100 seed=9]]"
FOLLOW = """async ([name, words]) => {
  const body = JSON.stringify({ stream: true, messages: [{ role: 'user', content: words }] });
  const headers = { 'X-Conversation-Id': name };
  const posted = await fetch('v1/chat/completions', { method: 'POST', headers, body });
  await posted.body.cancel();
  const source = new EventSource(`v1/stream?conv_id=${name}&ids=true`);
  window.followed = { told: [], opened: 0, source };
  source.onopen = () => window.followed.opened++;
  source.onmessage = (event) => window.followed.told.push(event.data);
}"""


def reaches(page: Page, condition: str) -> None:
    """Waits for what the page comes to; its policy forbids that it evaluates text by itself."""
    last = time.monotonic() + WAIT_S
    while not page.evaluate(condition):
        assert time.monotonic() < last, condition
        page.wait_for_timeout(LOOK_MS)


def test_a_cut_reader_misses_and_repeats_nothing(chat: ChatPage, balancer: Balancer) -> None:
    page, name = chat.page, "followed"
    page.evaluate(FOLLOW, [name, ASK])
    for count, cut in ((10, balancer.reset), (40, balancer.close_early)):
        reaches(page, f"followed.told.length > {count}")
        assert cut() > 0
    # 204 is what ends it: any other end of a response makes it come again.
    reaches(page, "followed.source.readyState === EventSource.CLOSED")
    told: list[str] = page.evaluate("followed.told")
    assert page.evaluate("followed.opened") > 2
    log: str = page.evaluate(f"fetch('v1/stream?conv_id={name}').then((one) => one.text())")
    assert told == [line[6:] for line in log.split("\n") if line.startswith("data: ")]
    parts: list[dict[str, Any]] = [json.loads(one) for one in told if one.startswith("{")]
    assert parts[-1]["timings"]["predicted_n"] == 1200
