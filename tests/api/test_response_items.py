"""The items of a response's input: what each is, and how they are paged."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.response_items import Window, items_of, page_of
from api.problems import RequestInvalid

ITEMS = [{"id": f"msg_{number}"} for number in range(5)]


def numbers(page: dict[str, Any]) -> str:
    """Which items a page has."""
    return "".join(item["id"][-1] for item in page["data"])


def test_what_an_assistant_did_are_items_of_their_own() -> None:
    function = {"name": "look", "arguments": "{}"}
    listed = items_of(
        [
            {"role": "system", "content": [{"type": "text", "text": one} for one in "ab"]},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "Hm",
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        "seed",
    )
    asked, thought, call, output = listed
    assert asked["content"] == [{"type": "input_text", "text": one} for one in "ab"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    assert {"call_id": "call_1", **function}.items() <= call.items()
    assert (output["call_id"], output["output"]) == ("call_1", "sunny")
    assert {item["status"] for item in listed} == {"completed"}
    assert [item["id"].split("_")[0] for item in listed] == ["msg", "rs", "fc", "fco"]


def test_the_last_comes_first_unless_it_is_asked_for_otherwise() -> None:
    assert numbers(page_of(ITEMS, Window())) == "43210"
    assert numbers(page_of(ITEMS, Window(is_ascending=True))) == "01234"


def test_pages_follow_one_another_and_the_last_says_so() -> None:
    first = page_of(ITEMS, Window(limit=3))
    assert (numbers(first), first["has_more"]) == ("432", True)
    assert (first["first_id"], first["last_id"]) == ("msg_4", "msg_2")
    last = page_of(ITEMS, Window(after="msg_2", limit=3))
    assert (numbers(last), last["has_more"]) == ("10", False)
    beyond = page_of(ITEMS, Window(after="msg_0"))
    assert beyond["data"] == [] and beyond["last_id"] is None and not beyond["has_more"]
    with pytest.raises(RequestInvalid, match="'after'"):
        page_of(ITEMS, Window(after="msg_9"))
