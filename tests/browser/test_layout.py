"""The page fits small windows, keeps its theme, and names everything that can be pressed."""

from __future__ import annotations

import pytest
from chat_page import ChatPage
from playwright.sync_api import expect

ASK = "Show some code [[tokens=400 rate=0 seed=7]]"
UNNAMED_BUTTONS = """
[...document.querySelectorAll('button, a, input, textarea, select')].filter((element) =>
  !(element.ariaLabel || element.innerText?.trim() || element.labels?.length)).length
"""


@pytest.mark.parametrize("width", [390, 360])
def test_nothing_is_wider_than_a_phone(chat: ChatPage, width: int) -> None:
    chat.page.set_viewport_size({"width": width, "height": 780})
    assert not chat.scrolls_sideways()
    chat.send(ASK)
    chat.expect_state("completed")
    assert not chat.scrolls_sideways()
    chat.by("menu").click()
    expect(chat.by("conversation")).to_be_visible()
    assert not chat.scrolls_sideways()


def test_a_chosen_theme_survives_a_reload(chat: ChatPage) -> None:
    for theme in ("light", "dark"):
        chat.by("theme").click()
        expect(chat.page.locator("html")).to_have_attribute("data-theme", theme)
    chat.page.reload()
    expect(chat.page.locator("html")).to_have_attribute("data-theme", "dark")


def test_everything_that_can_be_pressed_has_a_name(chat: ChatPage) -> None:
    chat.send(ASK)
    chat.expect_state("completed")
    assert chat.page.evaluate(UNNAMED_BUTTONS) == 0
