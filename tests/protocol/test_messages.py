"""Anthropic's Messages, and the transcripts of all dialects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from replay.request import Dialect
from tests.transcripts import ANSWERS, FOLDS, file_of

from .stored import Plant, planted
from .wire import STREAM, Node, asking, end_comment, error_of, frames, naming, target

MESSAGES = "/v1/messages"
SHORT = "[[tokens=40 rate=0 seed=3]]"


def ask(node: Node, name: str | None, words: str, **fields: object) -> httpx.Response:
    """Asks in Anthropic's words, and waits for the whole answer."""
    body = {"max_tokens": 4096, **asking(words, **fields)}
    return node.http.post(MESSAGES, headers=naming(name), json=body)


def kinds(log: bytes) -> list[str]:
    """What the events are called."""
    named = [frame for frame in frames(log) if frame.startswith(b"event: ")]
    return [frame.partition(b"\n")[0].decode().removeprefix("event: ") for frame in named]


def told(log: bytes) -> list[dict[str, Any]]:
    """The JSON of every event."""
    parts = [frame.partition(b"data: ")[2] for frame in frames(log)]
    return [json.loads(part) for part in parts if part]


def text_of(log: bytes) -> str:
    """What the text blocks say."""
    deltas = [event["delta"] for event in told(log) if event["type"] == "content_block_delta"]
    return "".join(delta.get("text", "") for delta in deltas)


@pytest.mark.clause("MSG-1")
def test_a_stream_is_the_log_and_its_fold_the_message(node: Node, other: Node, name: str) -> None:
    response = ask(node, name, SHORT, stream=True, seed=1)
    log = response.content
    assert other.read(name).content == log
    named = kinds(log)
    assert named[:3] == ["message_start", "ping", "content_block_start"]
    assert set(named[3:-3]) == {"content_block_delta"}
    assert named[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert [event["type"] for event in told(log)] == named
    message = told(log)[0]["message"]
    assert message["id"] == response.headers["x-completion-id"]
    assert message["id"].startswith("msg_")
    folded = ask(node, None, SHORT, seed=1).json()
    assert folded["content"] == [{"type": "text", "text": text_of(log)}]
    assert (folded["type"], folded["role"]) == ("message", "assistant")
    assert folded["model"] == message["model"]


@pytest.fixture
def reader(other: Node) -> Iterator[HTTPConnection]:
    """A connection that costs less than the reading."""
    with closing(HTTPConnection(urlsplit(other.url).netloc)) as made:
        yield made


def replayed(reader: HTTPConnection, name: str, offset: int) -> bytes:
    """What is read from this byte on."""
    reader.request("GET", target(STREAM, conv_id=name, from_=offset))
    return reader.getresponse().read()


@pytest.mark.clause("MSG-1")
@pytest.mark.parametrize("dialect", FOLDS)
def test_transcripts_are_replayed_from_every_byte(
    reader: HTTPConnection, db: Redis, name: str, dialect: Dialect
) -> None:
    wrong = []
    for number, case in enumerate(ANSWERS):
        log = file_of(dialect, case).read_bytes()
        named = f"{name}-{number}"
        chunks = tuple(frame + b"\n\n" for frame in frames(log))
        planted(db, Plant(named, chunks, state="completed", reason="stop"))
        step = 1 if case == "text" else len(log) // 12
        offsets = range(0, len(log) + 1, step)
        wrong += [offset for offset in offsets if replayed(reader, named, offset) != log[offset:]]
    assert wrong == []


@pytest.mark.clause("MSG-1")
def test_an_omitted_thought_is_an_empty_block(node: Node) -> None:
    words = "[[say]]<think>Hm.</think>Yes.[[/say]]"
    thinking = {"type": "adaptive", "display": "omitted"}
    streamed = told(ask(node, None, words, thinking=thinking, stream=True).content)
    deltas = [
        event["delta"]["type"] for event in streamed if "content_block_delta" in event["type"]
    ]
    assert deltas[0] == "signature_delta" and set(deltas[1:]) == {"text_delta"}
    thought, said = ask(node, None, words, thinking=thinking, stream=False).json()["content"]
    assert thought == {"type": "thinking", "thinking": "", "signature": ""}
    assert said["text"] == "Yes."


@pytest.mark.clause("MSG-2")
def test_why_a_message_ends(node: Node) -> None:
    whole = ask(node, None, SHORT, seed=1).json()
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("end_turn", None)
    assert whole["usage"]["output_tokens"] == 40
    usage = whole["usage"]
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    counted = node.http.post(f"{MESSAGES}/count_tokens", json=asking(SHORT))
    assert counted.json() == {"input_tokens": prompt}
    cut = ask(node, None, SHORT, max_tokens=3).json()
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 3)
    word = whole["content"][0]["text"].split()[1]
    stopped = ask(node, None, SHORT, seed=1, stop_sequences=["never", word]).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", word)


@pytest.mark.clause("MSG-3")
def test_what_is_said_reaches_the_model_as_a_chat_would_say_it(node: Node) -> None:
    def count(path: str, *messages: dict[str, Any], **fields: Any) -> int:
        answer = node.http.post(path, json={"messages": messages, **fields})
        assert answer.status_code == 200, answer.text
        found: int = answer.json()["input_tokens"]
        return found

    asked = {"role": "user", "content": "hello"}
    blocks = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    chat = "/v1/chat/completions/input_tokens"
    assert count(f"{MESSAGES}/count_tokens", blocks, system=[{"type": "text", "text": "s"}]) == (
        count(chat, {"role": "system", "content": "s"}, asked)
    )
    begun = {"role": "assistant", "content": "Well,"}
    words = [*asking(SHORT)["messages"], begun]
    answer = ask(node, None, "", messages=words).json()
    assert not answer["content"][0]["text"].startswith("Well,")


@pytest.mark.clause("MSG-3")
def test_what_no_text_model_reads_is_refused(node: Node, name: str) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "x"}}
    refused = ask(node, name, "", messages=[{"role": "user", "content": [image]}])
    assert refused.status_code == 400
    assert "'messages[0].content[0]': image input is not supported" in error_of(refused)["message"]
    refused = ask(node, name, "x", tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert (refused.status_code, error_of(refused)["type"]) == (400, "invalid_request_error")
    assert node.lookup(name) == []


@pytest.mark.clause("MSG-4")
def test_errors_are_in_the_vendors_words(node: Node) -> None:
    refused = ask(node, None, "x", max_tokens=0)
    body = refused.json()
    assert (refused.status_code, body["type"]) == (400, "error")
    assert body["request_id"] == refused.headers["request-id"]
    assert "'max_tokens'" in body["error"]["message"]
    again = ask(node, None, SHORT)
    assert again.headers["request-id"] not in ("", refused.headers["request-id"])


@pytest.mark.clause("MSG-4")
def test_a_late_failure_is_an_event_of_its_own(node: Node, other: Node, name: str) -> None:
    log = ask(node, name, "[[fail_at=9 rate=0]]", stream=True).content
    assert other.read(name).content == log
    assert kinds(log)[-1] == "error" and "message_stop" not in kinds(log)
    assert told(log)[-1]["error"]["type"] == "api_error"
    assert log.endswith(end_comment("failed", "engine"))
    early = ask(node, None, "[[fail_at=0]]", stream=True)
    assert (early.status_code, error_of(early)["type"]) == (500, "api_error")


@pytest.mark.clause("MSG-5")
def test_tokens_are_counted_also_where_they_do_not_fit(node: Node) -> None:
    counted = node.http.post(f"{MESSAGES}/count_tokens", json=asking("x" * 9000))
    assert counted.status_code == 200 and counted.json()["input_tokens"] > 9000
    refused = ask(node, None, "x" * 9000)
    assert refused.status_code == 400 and error_of(refused)["n_ctx"] == 8192


def test_a_message_is_stopped_and_resumed_as_a_chat_is(node: Node, other: Node, name: str) -> None:
    body = {"max_tokens": 4000, **asking("[[tokens=4000 rate=50]]", stream=True)}
    sent = json.dumps(body).encode()
    with node.exchange("POST", MESSAGES, naming(name), sent) as post:
        post.containing(b"text_delta")
        with other.reading(name, from_=1) as reader:
            reader.containing(b"text_delta")
            assert other.stop(name, keep="true").status_code == 204
            read = reader.whole()
        log = post.whole()
    assert log[1:] == read and log.endswith(end_comment("stopped", "client"))
