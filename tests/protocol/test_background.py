"""Responses after the request that asked for them, on another node than it came to."""

from __future__ import annotations

from typing import Any

import pytest

from .test_responses import RESPONSES, SHORT, ask, told
from .wire import Node, error_of, target, until

SLOW = "[[tokens=4000 rate=50]]"


def read(node: Node, response_id: str) -> dict[str, Any]:
    """The response as the node has it."""
    response = node.http.get(f"{RESPONSES}/{response_id}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def text_of(response: dict[str, Any]) -> str:
    """What its messages say."""
    items = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in items for part in item["content"])


@pytest.mark.clause("RESP-4")
def test_a_background_response_is_answered_at_once_and_grows(node: Node, other: Node) -> None:
    begun = ask(node, None, SLOW, background=True)
    first = begun.json()
    assert (first["object"], first["background"]) == ("response", True)
    assert first["status"] in ("queued", "in_progress")
    assert first["id"] == begun.headers["x-completion-id"]

    def said(more_than: int) -> dict[str, Any] | None:
        found = read(other, first["id"])
        return found if len(text_of(found)) > more_than else None

    early = until(lambda: said(0))
    assert early is not None and early["status"] == "in_progress"
    later = until(lambda: said(len(text_of(early))))
    assert later is not None and text_of(later).startswith(text_of(early))
    assert later["output"][0]["id"] == early["output"][0]["id"]
    cancelled = other.http.post(f"{RESPONSES}/{first['id']}/cancel").json()
    assert (cancelled["status"], cancelled["id"]) == ("cancelled", first["id"])
    assert text_of(cancelled).startswith(text_of(later))
    assert read(node, first["id"]) == cancelled
    assert node.http.post(f"{RESPONSES}/{first['id']}/cancel").json() == cancelled


@pytest.mark.clause("RESP-4")
def test_an_ended_response_is_read_as_its_fold_was(node: Node, other: Node) -> None:
    answered = ask(node, None, SHORT).json()
    assert read(other, answered["id"]) == answered
    cut = ask(node, None, SHORT, max_output_tokens=3).json()
    assert read(other, cut["id"]) == cut and cut["status"] == "incomplete"
    begun = ask(node, None, "[[fail_at=9 rate=0]]", background=True).json()
    failed = until(lambda: next(iter(ended(other, begun["id"])), None))
    assert failed is not None and failed["status"] == "failed"
    assert failed["error"]["code"] == "server_error" and "token 9" in failed["error"]["message"]
    assert text_of(failed)


def ended(node: Node, response_id: str) -> list[dict[str, Any]]:
    """The response, if it has ended."""
    found = read(node, response_id)
    return [] if found["status"] in ("queued", "in_progress") else [found]


@pytest.mark.clause("RESP-4")
def test_its_events_are_read_again_after_any_of_them(node: Node, other: Node) -> None:
    log = ask(node, None, SHORT, stream=True, background=True)
    response_id, events = log.headers["x-completion-id"], told(log.content)
    path = f"{RESPONSES}/{response_id}"
    assert other.http.get(target(path, stream="true")).content == log.content
    for number in range(len(events)):
        again = other.http.get(target(path, stream="true", starting_after=number)).content
        assert log.content.endswith(again)
        assert (told(again) if again else []) == events[number + 1 :]


@pytest.mark.clause("RESP-4")
def test_a_live_response_is_followed_from_an_event_on(node: Node, other: Node) -> None:
    response_id = ask(node, None, SLOW, background=True).json()["id"]
    path = f"{RESPONSES}/{response_id}"
    until(lambda: text_of(read(node, response_id)))
    with other.exchange("GET", target(path, stream="true", starting_after=1)) as reader:
        read_first = reader.containing(b"response.output_text.delta")
        assert b'"sequence_number":2}' in read_first and b"response.created" not in read_first
        assert node.http.post(f"{path}/cancel").json()["status"] == "cancelled"
        reader.whole()


@pytest.mark.clause("RESP-4")
def test_what_is_deleted_or_unknown_is_404(node: Node, other: Node) -> None:
    response_id = ask(node, None, SLOW, background=True).json()["id"]
    path = f"{RESPONSES}/{response_id}"
    deleted = other.http.delete(path)
    assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
    chat = node.post(None, SHORT).headers["x-completion-id"]
    ways = (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", ""))
    for one in (response_id, "resp_unknown", chat, "x" * 3000):
        for method, more in ways:
            refused = node.http.request(method, f"{RESPONSES}/{one}{more}")
            assert (refused.status_code, error_of(refused)["type"]) == (404, "not_found_error")


@pytest.mark.clause("RESP-4")
def test_a_response_under_a_name_is_found_by_its_id_too(node: Node, other: Node, name: str) -> None:
    answered = ask(node, name, SHORT).json()
    assert text_of(read(other, answered["id"])) == text_of(answered)
    again = ask(node, name, SHORT).json()
    assert read(other, again["id"])["id"] == again["id"] != answered["id"]
    assert read(other, answered["id"])["id"] == answered["id"]
    assert other.stop(name).status_code == 204
    assert node.http.get(f"{RESPONSES}/{again['id']}").status_code == 404


@pytest.mark.clause("RESP-4")
def test_numbers_and_flags_are_checked(node: Node) -> None:
    response_id = ask(node, None, SHORT).json()["id"]
    for query in ({"stream": "maybe"}, {"starting_after": "-1"}, {"starting_after": "x"}):
        assert node.http.get(target(f"{RESPONSES}/{response_id}", **query)).status_code == 400


@pytest.mark.clause("RESP-5")
def test_a_response_goes_on_from_another(node: Node, other: Node) -> None:
    first = ask(node, None, SHORT, instructions="Be brief.").json()
    follow = {"previous_response_id": first["id"], "instructions": "Be long."}
    second = ask(other, None, "And?", max_output_tokens=4, **follow).json()
    assert second["previous_response_id"] == first["id"]
    counted = node.http.post(
        f"{RESPONSES}/input_tokens",
        json={
            "instructions": "Be long.",
            "input": [
                {"role": "user", "content": SHORT},
                *first["output"],
                {"role": "user", "content": "And?"},
            ],
        },
    ).json()
    assert second["usage"]["input_tokens"] == counted["input_tokens"]
    asked = {"input": "And?", **follow}
    assert node.http.post(f"{RESPONSES}/input_tokens", json=asked).json() == counted
    third = ask(node, None, "So?", max_output_tokens=4, previous_response_id=second["id"]).json()
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]


@pytest.mark.clause("RESP-6")
def test_what_a_response_was_asked_is_listed_in_pages(node: Node, other: Node) -> None:
    first = ask(node, None, SHORT, instructions="Be brief.").json()
    follow = ask(node, None, "And?", max_output_tokens=2, previous_response_id=first["id"]).json()
    path = f"{RESPONSES}/{follow['id']}/input_items"
    listed = other.http.get(path).json()
    asked, answered, begun = listed["data"]
    assert [item["role"] for item in listed["data"]] == ["user", "assistant", "user"]
    assert asked["content"] == [{"type": "input_text", "text": "And?"}]
    assert answered["content"] == first["output"][0]["content"]
    assert begun["content"][0]["text"] == SHORT
    assert (listed["object"], listed["has_more"]) == ("list", False)
    assert (listed["first_id"], listed["last_id"]) == (asked["id"], begun["id"])
    page = node.http.get(target(path, order="asc", limit=1, after=begun["id"])).json()
    assert (page["data"], page["has_more"]) == ([answered], True)
    for query in ({"limit": "0"}, {"limit": "101"}, {"order": "up"}, {"after": "msg_unknown"}):
        refused = node.http.get(target(path, **query))
        assert (
            refused.status_code == 400 and f"'{next(iter(query))}'" in error_of(refused)["message"]
        )


@pytest.mark.clause("RESP-5")
def test_what_is_not_there_or_not_over_cannot_be_followed(node: Node) -> None:
    missing = ask(node, None, "x", previous_response_id="resp_unknown")
    assert (missing.status_code, error_of(missing)["type"]) == (404, "not_found_error")
    running = ask(node, None, SLOW, background=True).json()["id"]
    early = ask(node, None, "x", previous_response_id=running)
    assert early.status_code == 400 and "'previous_response_id'" in error_of(early)["message"]
    node.http.delete(f"{RESPONSES}/{running}")
