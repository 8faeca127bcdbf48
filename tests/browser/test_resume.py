"""A reply outlives its connection, its page and its node: the text is the script's, in one row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from balancer import Balancer
from chat_page import ANSWER_LIMIT_MS, ChatPage
from playwright.sync_api import expect

from deploy.local.cluster import Cluster

ASK = "Go on for a while [[tokens=600 rate=60 seed=7]]"
"""Some ten seconds, with emoji, combining marks and a block of code."""

Answer = Callable[[str], str]


def expect_whole(chat: ChatPage, expected: str) -> None:
    """The newest reply ends completed, is stored in one row, and is the script."""
    chat.expect_state("completed", limit_ms=ANSWER_LIMIT_MS)
    assert [reply["content"] for reply in chat.stored_replies()] == [expected]
    expect(chat.by("message")).to_have_count(2)
    expect(chat.by("end-notice")).to_have_count(0)


def test_a_reply_that_nothing_disturbs_is_the_script(chat: ChatPage, answer_to: Answer) -> None:
    chat.send(ASK)
    expect_whole(chat, answer_to(ASK))
    expect(chat.by("resumes")).to_have_count(0)
    expect(chat.by("announcer")).to_contain_text("Reply finished")


@pytest.mark.parametrize("cut", ["reset", "close_early"])
def test_a_cut_connection_is_resumed_at_once(
    chat: ChatPage, balancer: Balancer, answer_to: Answer, cut: str
) -> None:
    chat.send(ASK)
    chat.expect_text("w0010")
    assert getattr(balancer, cut)() > 0
    expect(chat.by("resumes")).to_contain_text("resumed once")  # the first try waits for nothing
    expect_whole(chat, answer_to(ASK))


def test_a_reload_shows_what_there_was_and_goes_on(chat: ChatPage, answer_to: Answer) -> None:
    chat.send(ASK)
    chat.expect_text("w0041")
    chat.page.reload()
    expect(chat.by("message-text")).to_contain_text("w0001")
    chat.expect_state("live")
    expect(chat.by("stop")).to_be_visible()
    expect_whole(chat, answer_to(ASK))


def test_stored_text_is_shown_before_the_network_answers(
    chat: ChatPage, balancer: Balancer, answer_to: Answer
) -> None:
    chat.send(ASK)
    chat.expect_text("w0061")
    # The page itself must load, so only the API is out of reach.
    chat.page.route("**/v1/**", lambda route: route.abort())
    chat.page.reload()
    expect(chat.by("message-text")).to_contain_text("w0001")
    chat.expect_state("waiting", "reconnecting", "starting")
    chat.page.unroute("**/v1/**")
    expect_whole(chat, answer_to(ASK))


def test_a_reply_outlives_the_node_that_served_it(
    chat: ChatPage, cluster: Cluster, answer_to: Answer
) -> None:
    chat.send(ASK)
    chat.expect_text("w0010")
    expect(chat.by("node")).to_have_text("api-1")
    cluster.kill("api-1")
    expect(chat.by("resumes")).to_contain_text("resumed")
    expect_whole(chat, answer_to(ASK))


def test_a_network_that_is_away_is_waited_for(
    chat: ChatPage, balancer: Balancer, answer_to: Answer
) -> None:
    chat.send(ASK)
    chat.expect_text("w0010")
    chat.by("composer-input").fill("a draft")
    balancer.refuse(True)
    balancer.reset()
    chat.expect_state("waiting")
    expect(chat.by("connection")).to_have_attribute("data-reach", "lost")
    balancer.refuse(False)
    expect(chat.by("composer-input")).to_have_value("a draft")
    expect_whole(chat, answer_to(ASK))
