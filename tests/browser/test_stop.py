"""Stop ends the reply here, on the server and in every other tab, and what was said stays."""

from __future__ import annotations

from balancer import Balancer
from chat_page import ChatPage, OpenPage
from playwright.sync_api import expect

ASK = "Go on for a while [[tokens=2000 rate=60 seed=3]]"


def test_a_stopped_reply_does_not_grow_back(chat: ChatPage) -> None:
    chat.send(ASK)
    chat.expect_text("w0010")
    chat.by("stop").click()
    chat.expect_state("stopped")
    said = chat.shown_text()
    chat.page.reload()
    chat.expect_state("stopped")
    assert chat.shown_text() == said
    expect(chat.by("send")).to_be_visible()
    expect(chat.by("spinner")).to_have_count(0)


def test_the_other_tab_hears_that_it_was_stopped(chat: ChatPage, open_page: OpenPage) -> None:
    chat.send(ASK)
    chat.expect_text("w0010")
    other = open_page()
    other.page.goto(chat.page.url)
    other.expect_state("live")
    chat.by("stop").click()
    other.expect_state("stopped")
    assert len(other.stored_replies()) == 1


def test_a_stop_while_the_network_is_away_is_delivered_later(
    chat: ChatPage, balancer: Balancer
) -> None:
    chat.send(ASK)
    chat.expect_text("w0010")
    balancer.refuse(True)
    balancer.reset()
    chat.by("stop").click()
    chat.expect_state("stopped")
    expect(chat.by("composer")).to_contain_text("Stop pending")
    with chat.page.expect_response(lambda response: response.request.method == "DELETE") as stop:
        balancer.refuse(False)
    assert stop.value.status == 204
    assert stop.value.headers["x-stream-state"] == "stopped"
    expect(chat.by("composer")).not_to_contain_text("Stop pending")


def test_a_message_after_a_stop_gets_its_own_whole_reply(chat: ChatPage) -> None:
    chat.send(ASK)
    chat.expect_text("w0010")
    chat.by("stop").click()
    chat.send("Now briefly [[tokens=20 rate=0 seed=4]]")
    chat.expect_state("completed")
    ends = [reply["end"]["state"] for reply in chat.stored_replies()]
    assert ends == ["stopped", "completed"]
