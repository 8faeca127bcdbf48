"""OpenAI's Responses."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from .wire import Node, end_comment, error_of, frames, naming

RESPONSES = "/v1/responses"
SHORT = "[[tokens=40 rate=0 seed=3]]"


def ask(node: Node, name: str | None, words: str, **fields: object) -> httpx.Response:
    """Asks in the words of the Responses API, and waits for the whole answer."""
    body = {"input": words, "temperature": 0, **fields}
    return node.http.post(RESPONSES, headers=naming(name), json=body)


def told(log: bytes) -> list[dict[str, Any]]:
    """The JSON of every event, which is named as it is typed."""
    found = []
    for frame in frames(log):
        name, _, data = frame.partition(b"\ndata: ")
        if data:
            found.append(json.loads(data))
            assert name == b"event: " + found[-1]["type"].encode()
    return found


@pytest.mark.clause("RESP-1")
def test_a_stream_is_the_log_in_the_published_order(node: Node, other: Node, name: str) -> None:
    response = ask(node, name, SHORT, stream=True, seed=1)
    log = response.content
    assert other.read(name).content == log
    events = told(log)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    text = "".join(event["delta"] for event in events if event["type"].endswith("text.delta"))
    [item] = events[-1]["response"]["output"]
    assert item == events[-2]["item"]
    assert (item["id"], item["content"][0]["text"]) == (events[2]["item"]["id"], text)
    ids = {event["response"]["id"] for event in events if "response" in event}
    assert ids == {response.headers["x-completion-id"]}
    assert events[-1]["timings"]["predicted_n"] == 40
    folded = ask(node, None, SHORT, seed=1).json()
    assert folded["output"][0]["content"][0]["text"] == text
    assert (folded["object"], folded["status"]) == ("response", "completed")
    assert folded["id"].startswith("resp_") and "timings" not in folded
    for one in (events[-1]["response"], folded):
        assert one["created_at"] <= one["completed_at"] <= time.time()


@pytest.mark.clause("RESP-2")
def test_what_was_cut_is_incomplete(node: Node) -> None:
    cut = ask(node, None, SHORT, max_output_tokens=3).json()
    assert (cut["status"], cut["usage"]["output_tokens"]) == ("incomplete", 3)
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}
    assert cut["output"][0]["status"] == "incomplete" and "completed_at" not in cut
    counted = node.http.post(f"{RESPONSES}/input_tokens", json={"input": SHORT})
    assert counted.json() == {
        "object": "response.input_tokens",
        "input_tokens": cut["usage"]["input_tokens"],
    }


@pytest.mark.clause("RESP-3")
def test_what_is_said_reaches_the_model_as_a_chat_would_say_it(node: Node) -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]
    counted = node.http.post(
        f"{RESPONSES}/input_tokens", json={"input": items, "instructions": "s"}
    ).json()
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
    chat = "/v1/chat/completions/input_tokens"
    assert counted == node.http.post(chat, json={"messages": messages}).json()


@pytest.mark.clause("RESP-3")
@pytest.mark.parametrize(
    "part", [{"type": "input_image", "image_url": "x"}, {"type": "input_file", "file_id": "x"}]
)
def test_what_no_text_model_reads_is_refused(node: Node, name: str, part: dict[str, Any]) -> None:
    refused = ask(node, name, "", input=[{"role": "user", "content": [part]}])
    assert (refused.status_code, error_of(refused)["type"]) == (400, "invalid_request_error")
    assert "'input[0].content[0]'" in error_of(refused)["message"]
    assert node.lookup(name) == []


@pytest.mark.clause("RESP-1")
def test_a_failure_is_an_event_and_no_completion(node: Node, other: Node, name: str) -> None:
    log = ask(node, name, "[[fail_at=9 rate=0]]", stream=True).content
    assert other.read(name).content == log
    assert told(log)[-1]["type"] == "error" and "token 9" in told(log)[-1]["message"]
    assert log.endswith(end_comment("failed", "engine"))


@pytest.mark.clause("RESP-1")
def test_timings_ride_on_the_deltas_where_they_are_asked_for(node: Node) -> None:
    events = told(ask(node, None, SHORT, stream=True, timings_per_token=True).content)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert deltas and all(event["timings"]["predicted_n"] > 0 for event in deltas)
    plain = told(ask(node, None, SHORT, stream=True).content)
    assert not any("timings" in event for event in plain[:-1])
