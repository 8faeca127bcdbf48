"""Several conversations at once: each keeps its reply, its draft and its dot."""

from __future__ import annotations

from collections.abc import Callable

from chat_page import ANSWER_LIMIT_MS, ChatPage, OpenPage
from playwright.sync_api import expect

LONG = "First of all [[tokens=600 rate=60 seed=5]]"
ENDLESS = "Endless [[tokens=4000 rate=50 seed=6]]"


def test_a_background_reply_keeps_its_dot_and_becomes_unread(
    chat: ChatPage, answer_to: Callable[[str], str]
) -> None:
    chat.send(LONG)
    chat.expect_text("w0010")
    chat.by("new-conversation").click()
    expect(chat.by("empty")).to_be_visible()
    expect(chat.by("spinner")).to_have_count(1)
    expect(chat.by("unread")).to_have_count(1, timeout=ANSWER_LIMIT_MS)
    expect(chat.by("spinner")).to_have_count(0)
    chat.conversation("First").get_by_role("link").click()
    chat.expect_state("completed")
    expect(chat.by("unread")).to_have_count(0)
    assert [reply["content"] for reply in chat.stored_replies()] == [answer_to(LONG)]


def test_a_cold_start_shows_the_dots_of_all_that_runs(chat: ChatPage, open_page: OpenPage) -> None:
    for title in ("One", "Two"):
        chat.by("new-conversation").click()
        chat.send(f"{title} {ENDLESS}")
        chat.expect_text("w0002")
    chat.page.close()
    cold = open_page()
    expect(cold.by("spinner")).to_have_count(2)
    for title in ("One", "Two"):
        cold.conversation(title).get_by_role("link").click()
        cold.expect_state("live")
        cold.by("stop").click()
    expect(cold.by("spinner")).to_have_count(0)


def test_no_word_of_one_conversation_shows_in_another(chat: ChatPage) -> None:
    chat.send(ENDLESS)
    chat.expect_text("w0010")
    chat.by("new-conversation").click()
    chat.send("Short [[tokens=20 rate=0 seed=8]]")
    chat.expect_state("completed")
    said = chat.shown_text()
    expect(chat.by("message")).to_have_count(2)
    chat.conversation("Endless").get_by_role("link").click()
    chat.expect_state("live")
    chat.conversation("Short").get_by_role("link").click()
    chat.expect_state("completed")
    assert chat.shown_text() == said


def test_a_message_sent_while_a_reply_runs_waits_for_its_turn(chat: ChatPage) -> None:
    chat.send(LONG)
    chat.expect_text("w0010")
    chat.send("And then [[tokens=20 rate=0 seed=9]]")
    expect(chat.by("queued")).to_contain_text("And then")
    expect(chat.by("message")).to_have_count(4, timeout=ANSWER_LIMIT_MS)
    chat.expect_state("completed", limit_ms=ANSWER_LIMIT_MS)
    ends = [reply["end"]["state"] for reply in chat.stored_replies()]
    assert ends == ["completed", "completed"]


def test_a_refused_message_says_why_beside_it(chat: ChatPage) -> None:
    chat.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=400,
            json={"error": {"code": 400, "type": "invalid_request_error", "message": "too long"}},
        ),
    )
    chat.send("Hello [[tokens=20 rate=0 seed=1]]")
    expect(chat.by("end-notice")).to_contain_text("too long")
    chat.page.unroute("**/v1/chat/completions")
    chat.by("retry").click()
    chat.expect_state("completed")
    expect(chat.by("message")).to_have_count(2)


def test_a_conversation_is_renamed_and_deleted(chat: ChatPage) -> None:
    chat.send("Hello [[tokens=20 rate=0 seed=1]]")
    chat.expect_state("completed")
    chat.conversation("Hello").hover()
    chat.by("rename").click()
    chat.page.keyboard.type("Renamed")
    chat.page.keyboard.press("Enter")
    chat.conversation("Renamed").hover()
    chat.by("delete").click()
    chat.by("confirm-delete").click()
    expect(chat.by("conversation")).to_have_count(0)
    chat.page.reload()
    expect(chat.by("empty")).to_be_visible()
    assert chat.stored_replies() == []
