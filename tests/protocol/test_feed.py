"""POST /v1/streams/events, clause by clause."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .wire import Exchange, Node, error_of, frames

EVENTS = "/v1/streams/events"
LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"


def feed(node: Node, *names: object) -> Exchange:
    return node.exchange("POST", EVENTS, body=json.dumps({"conversation_ids": names}).encode())


def told(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The events in whole frames, comments left out."""
    found = []
    for frame in frames(data):
        if frame.startswith(b"event: "):
            kind, _, payload = frame.partition(b"\ndata: ")
            found.append((kind.removeprefix(b"event: ").decode(), json.loads(payload)))
    return found


def kinds(exchange: Exchange, name: str) -> list[str]:
    return [kind for kind, one in told(exchange.data) if one["conversation_id"] == name]


def grows(exchange: Exchange) -> bool:
    """Whether any progress was one of tokens; to be claimed is one too."""
    progress = [one for kind, one in told(exchange.data) if kind == "progress"]
    return any(one["tokens"] and one["tokens_per_second"] > 0 for one in progress)


@pytest.mark.clause("FEED-1")
def test_a_feed_tells_the_life_of_what_it_names(node: Node, other: Node, name: str) -> None:
    early, late = f"{name}-early", f"{name}-late"
    node.post(early, SHORT, stream=True)
    with feed(other, early, late) as heard:
        heard.containing(b'"completed"')
        assert kinds(heard, early) == ["session"]
        with node.posting(late, LONG) as post:
            post.first(1)
            while not grows(heard):
                assert heard.chunk()
            node.stop(late, keep="true")
            heard.containing(b"event: ended")
        assert kinds(heard, late)[0] == "session"
        [ended] = [one for kind, one in told(heard.data) if kind == "ended"]
        assert (ended["state"], ended["reason"]) == ("stopped", "client")
        assert ended == other.found(late)
        node.stop(late)
        heard.containing(b"event: gone")
        assert kinds(heard, late)[-1] == "gone"
        assert kinds(heard, early) == ["session"]


@pytest.mark.clause("FEED-1")
def test_a_later_session_of_a_name_is_told_anew(node: Node, name: str) -> None:
    with feed(node, name) as heard:
        for _ in range(2):
            epoch = node.post(name, SHORT, stream=True).headers["x-stream-epoch"]
            heard.containing(b'"epoch":' + epoch.encode())


@pytest.mark.clause("FEED-2")
def test_whoever_comes_later_hears_the_present_state(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG) as post:
        post.first(1)
        for one in (node, other):
            with feed(one, name) as heard:
                heard.containing(b"event: session")
                assert told(heard.data)[0][1]["state"] == "running"
        node.stop(name)


@pytest.mark.clause("LOOKUP-2")
def test_a_feed_tells_of_nothing_else(node: Node, name: str) -> None:
    node.post(name, SHORT, stream=True)
    with feed(node, name + "x", 7) as heard:
        with node.posting(name, SHORT):
            pass
        node.post(name + "x", SHORT, stream=True)
        heard.containing(b"event: session")
        assert {one["conversation_id"] for _, one in told(heard.data)} == {name + "x"}


@pytest.mark.clause("LOOKUP-3")
def test_where_a_page_shows_the_answer_is_kept_with_it(node: Node, other: Node, name: str) -> None:
    headers = {"X-Message-Id": "m-17", "X-Stream-Prefix-Chars": "120,7"}
    body = {"messages": [{"role": "user", "content": SHORT}], "stream": True}
    sent = node.http.post(
        "/v1/chat/completions", json=body, headers={"X-Conversation-Id": name, **headers}
    )
    assert sent.status_code == 200
    found = other.found(name)
    assert found["message_id"] == "m-17"
    assert found["prefix_chars"] == {"content": 120, "reasoning": 7}


@pytest.mark.clause("LOOKUP-3")
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Message-Id", ""),
        ("X-Message-Id", "x" * 256),
        ("X-Stream-Prefix-Chars", "-1"),
        ("X-Stream-Prefix-Chars", "1,2,3"),
        ("X-Stream-Prefix-Chars", "many"),
    ],
)
def test_another_place_is_refused(node: Node, name: str, header: str, value: str) -> None:
    body = {"messages": [{"role": "user", "content": SHORT}]}
    sent = node.http.post(
        "/v1/chat/completions", json=body, headers={"X-Conversation-Id": name, header: value}
    )
    assert sent.status_code == 400
    assert header in error_of(sent)["message"]
    assert node.lookup(name) == []
