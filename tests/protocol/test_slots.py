"""GET /slots, clause by clause."""

from __future__ import annotations

from typing import Any

import pytest

from .wire import Node, error_of, until

LONG = "[[tokens=100000 rate=50]]"


def used(node: Node, name: str) -> list[dict[str, Any]]:
    return [one for one in node.http.get("/slots").json() if name in one.get("session", "")]


@pytest.mark.clause("SLOTS-1")
def test_a_slot_in_use_is_told_by_every_node(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG, max_tokens=90_000) as post:
        post.first(1)
        [slot] = until(lambda: used(other, name))
        assert slot["is_processing"] is True
        assert 0 < slot["n_prompt_tokens"] == slot["n_prompt_tokens_processed"]
        [next_token] = until(
            lambda: [
                one for [one] in (s["next_token"] for s in used(other, name)) if one["n_decoded"]
            ]
        )
        assert next_token["n_remain"] == 90_000 - next_token["n_decoded"]
        node.stop(name)
    until(lambda: not used(other, name))


@pytest.mark.clause("SLOTS-1")
def test_every_slot_of_the_model_is_listed(node: Node, model: str) -> None:
    [listed] = [one["meta"] for one in node.models() if one["id"] == model]
    found = node.http.get("/slots", params={"model": model}).json()
    assert len(found) == listed["slots"]
    assert {one["model"] for one in found} == {model}
    assert {one["n_ctx"] for one in found} == {listed["n_ctx"]}
    assert node.http.get("/slots", params={"model": "no such"}).status_code == 400


@pytest.mark.clause("SLOTS-1")
@pytest.mark.usefixtures("occupied")
def test_whoever_needs_a_free_slot_is_told_that_there_is_none(node: Node) -> None:
    asked = {"fail_on_no_slot": "1"}
    refused = until(
        lambda: (found := node.http.get("/slots", params=asked)).status_code == 503 and found
    )
    assert error_of(refused)["message"] == "no slot available"


@pytest.mark.clause("SLOTS-2")
@pytest.mark.parametrize("action", ["save", "restore", "erase"])
def test_without_a_folder_for_them_slots_are_not_to_be_changed(node: Node, action: str) -> None:
    refused = node.http.post(f"/slots/0?action={action}", json={"filename": "x"})
    assert (refused.status_code, error_of(refused)["type"]) == (501, "not_supported_error")
    assert "`--slot-save-path`" in error_of(refused)["message"]
