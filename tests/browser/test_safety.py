"""What a reply may not do to its reader, and what a page does that is asked for a key."""

from __future__ import annotations

import json

from chat_page import ChatPage
from playwright.sync_api import Route, expect

ASK = "Hello [[tokens=20 rate=0 seed=1]]"
HOSTILE = """Look <img src="/props" onerror="document.title='caught'"> here

<script>document.title = 'caught'</script>

![pixel](/health?seen) and [a link](javascript:document.title='caught')
"""


def test_a_hostile_reply_runs_nothing_and_fetches_nothing(chat: ChatPage) -> None:
    fetched: list[str] = []
    chat.page.on("request", lambda request: fetched.append(request.url))
    chunk = {"id": "chatcmpl-1", "model": "m", "choices": [{"delta": {"content": HOSTILE}}]}
    chat.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream",
            headers={"X-Stream-Epoch": "1"},
            body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n",
        ),
    )
    chat.send(ASK)
    chat.expect_state("completed")
    text = chat.by("message-text")
    expect(text).to_contain_text("<script>document.title = 'caught'</script>")
    expect(text.locator("img, script")).to_have_count(0)
    assert text.locator("a[href^=javascript]").count() == 0
    expect(chat.page).not_to_have_title("caught")
    assert [url for url in fetched if "seen" in url] == []


def test_a_key_is_asked_for_and_the_draft_survives(chat: ChatPage) -> None:
    chat.by("composer-input").fill(ASK)

    def ask_for_key(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.continue_()
            return
        error = {"code": 401, "type": "authentication_error", "message": "Invalid API Key"}
        route.fulfill(status=401, json={"error": error})

    chat.page.route("**/v1/**", ask_for_key)
    chat.page.route("**/props", ask_for_key)
    chat.page.reload()
    expect(chat.by("key-screen")).to_be_visible()
    chat.by("key-input").fill("wrong")
    chat.by("key-input").press("Enter")
    expect(chat.by("key-screen")).to_contain_text("refused")
    chat.by("key-input").fill("sesame")
    chat.by("key-input").press("Enter")
    expect(chat.by("key-screen")).to_have_count(0)
    expect(chat.by("composer-input")).to_have_value(ASK)
    chat.by("send").click()
    chat.expect_state("completed")
