"""POST /v1/chat/completions, clause by clause."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from inference_worker.scripted_engine import open_scripted_engine, scripted_answer
from replay.request import SamplingParams

from .frail import Frail
from .stored import asked_with, stored
from .wire import (
    CHAT,
    DONE,
    Exchange,
    Node,
    asking,
    end_comment,
    error_of,
    events,
    frames,
    naming,
    text_of,
    until,
)

Announce = Callable[[dict[str, Any]], None]
GOLDEN = Path(__file__).parent / "golden" / "chat.sse"
LEAVES_WITHIN_S = 10.0
"""It is promised within one second; the rest is for a machine that is busy with other tests."""
LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
UNREADABLE = [b"\xff", b"half \xc3", b"a\tb", b"\xc2\x85", b"x" * 1025]
READABLE = ["plain", "a/b//c", "50%25", "{tag}", "two  words", "é🙂", "x::y", "::", "1+1=2&x", "?#"]

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": [1]}, "messages[0]"),
    ({"messages": [{"content": "no role"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ({"stream": 1}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"temperature": "hot"}, "temperature"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    ({"n_predict": "7"}, "n_predict"),
    ({"stop": [1]}, "stop"),
    ({"seed": True}, "seed"),
    ({"sse_ping_interval": -2}, "sse_ping_interval"),
    ({"model": 7}, "model"),
    ({"logprobs": "yes"}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"samplers": ["warp"]}, "samplers"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
]
NOT_BUILT: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"n": 99}, "n"),
    ({"t_max_predict_ms": -2}, "t_max_predict_ms"),
]


@pytest.mark.clause("POST-1")
def test_a_named_session_outlives_its_client(node: Node, other: Node, name: str) -> None:
    with node.posting(name, "[[tokens=30 rate=60]]") as left:
        begun = left.first(1)
    log = other.read(name).content
    assert log.startswith(begun) and log.endswith(DONE)
    [found] = other.lookup(name)
    assert (found["state"], found["reason"]) == ("completed", "stop")


@pytest.mark.clause("POST-1")
@pytest.mark.parametrize("text", READABLE)
def test_a_name_is_kept_verbatim(node: Node, other: Node, name: str, text: str) -> None:
    named = f"{text} {name}"
    with node.posting(named, SHORT) as post:
        log = post.whole()
    assert [one["conversation_id"] for one in other.lookup(named)] == [named]
    assert other.read(named).content == log
    assert other.stop(named).headers["x-stream-size"] == str(len(log))


@pytest.mark.clause("POST-1")
def test_a_name_has_1024_bytes_at_most(node: Node, other: Node) -> None:
    named = (secrets.token_hex(8) + "🙂" * 300).encode()[:1024].decode()
    assert len(named.encode()) == 1024
    assert node.post(named, SHORT).status_code == 200
    assert other.found(named)["conversation_id"] == named


@pytest.mark.clause("POST-1")
@pytest.mark.parametrize("value", UNREADABLE)
def test_a_name_that_is_no_text_is_400(node: Node, value: bytes) -> None:
    with node.posting(value, SHORT) as post:
        assert (post.status, post.error()["type"]) == (400, "invalid_request_error")


@pytest.mark.clause("POST-1")
@pytest.mark.parametrize("control", [b"\x01", b"\x1b", b"\x7f"])
def test_a_control_character_in_a_name_is_400(node: Node, control: bytes) -> None:
    with node.posting(b"a" + control + b"b", SHORT) as post:
        assert post.status == 400


@pytest.mark.clause("POST-2")
@pytest.mark.parametrize("header", [{}, {b"X-Conversation-Id": b""}], ids=["none", "empty"])
def test_a_client_that_leaves_a_plain_request_stops_it(
    node: Node, db: Redis, name: str, header: dict[bytes, bytes]
) -> None:
    body = json.dumps(asking(f"{LONG} {name}", stream=True)).encode()
    with node.exchange("POST", CHAT, header, body) as post:
        post.first(1)
        session = asked_with(db, name)
    left_s = time.monotonic()
    record = session.reaches("stopped")
    assert time.monotonic() - left_s < LEAVES_WITHIN_S
    assert record["reason"] == "disconnected"


@pytest.mark.clause("POST-2")
@pytest.mark.usefixtures("occupied")
def test_a_client_that_leaves_a_plain_request_in_the_queue_stops_it(
    node: Node, db: Redis, name: str
) -> None:
    words = f"{LONG} queued {name}"
    with node.posting(None, words):
        session = asked_with(db, words)
        assert session.fields["state"] == "queued"
    left_s = time.monotonic()
    record = session.reaches("stopped")
    assert time.monotonic() - left_s < LEAVES_WITHIN_S
    assert (record["reason"], record["token_count"]) == ("disconnected", "0")
    until(lambda: not db.zcard(session.keys.queue))


@pytest.mark.clause("POST-2")
def test_the_death_of_its_node_stops_a_plain_request(frail: Frail, name: str) -> None:
    with frail.nodes[0].posting(None, f"{LONG} {name}", model="one") as post:
        post.first(1)
        session = asked_with(frail.db, name)
        frail.kill("api-1")
        # Five seconds on, its heartbeat would have expired by itself.
        frail.db.delete(f"rc:node:{session.fields['owner']}")
        assert session.reaches("stopped")["reason"] == "disconnected"


@pytest.mark.clause("POST-3")
def test_a_new_post_replaces_the_session_of_another_model(frail: Frail, name: str) -> None:
    node, other = frail.nodes
    with node.posting(f"{name}::one", LONG, model="one") as first:
        first.first(1)
        answer = other.post(f"{name}::two", SHORT, model="two", stream=True).content
        assert first.whole().endswith(end_comment("stopped", "replaced"))
    assert [one["model"] for one in node.lookup(name)] == ["two"]
    assert node.read(name).content == answer


@pytest.mark.clause("POST-3")
def test_a_name_less_its_model_is_the_conversation(
    node: Node, other: Node, name: str, model: str
) -> None:
    named = f"{name}::{model}"
    log = node.post(named, SHORT, stream=True, model=model).content
    assert other.read(name).content == other.read(named).content == log
    assert other.found(name)["conversation_id"] == named


@pytest.mark.clause("POST-3")
def test_a_name_less_an_alias_is_the_conversation(
    node: Node, other: Node, name: str, model: str, ghost: Announce
) -> None:
    nick = f"nick-{name}"
    ghost({"name": model, "status": "loaded", "aliases": [nick]})
    answer = node.post(f"{name}::{nick}", SHORT, model=nick).json()
    assert answer["model"] == model
    assert other.found(name)["model"] == model
    assert other.read(f"{name}::{model}").status_code == 200


@pytest.mark.clause("POST-3")
def test_another_models_name_belongs_to_the_conversation(node: Node, name: str) -> None:
    node.post(f"{name}::other", SHORT)
    assert node.read(name).status_code == 404
    assert node.read(f"{name}::other").status_code == 200


@pytest.mark.clause("POST-3")
def test_a_new_post_replaces_the_live_session(
    node: Node, other: Node, name: str, model: str
) -> None:
    with node.posting(f"{name}::{model}", LONG, model=model) as first:
        first.first(1)
        answer = other.post(name, SHORT, stream=True).content
        assert first.whole().endswith(end_comment("stopped", "replaced"))
    assert node.read(name).content == answer


@pytest.mark.clause("POST-4")
def test_a_refused_request_touches_nothing(node: Node, other: Node, name: str) -> None:
    retained = f"{name}-retained"
    log = node.post(retained, SHORT, stream=True).content
    with node.posting(name, LONG) as post:
        post.first(1)
        before = other.found(name)["epoch"]
        for refused in (
            {"max_tokens": -5},
            {"n": 99},
            {"model": "nowhere"},
            {"messages": [{"role": "user", "content": "x" * 9000}]},
        ):
            for named in (name, retained):
                assert other.post(named, SHORT, **refused).status_code == 400
        now = other.found(name)
        assert (now["epoch"], now["state"]) == (before, "running")
        assert node.read(retained).content == log
        other.stop(name)


@pytest.mark.clause("POST-5")
@pytest.mark.parametrize(("fields", "field"), MISTAKES + NOT_BUILT)
def test_a_mistake_is_a_400_that_names_its_field(
    node: Node, fields: dict[str, Any], field: str
) -> None:
    response = node.post(None, SHORT, **fields)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (400, 400)
    assert error["type"] == "invalid_request_error"
    assert re.search(rf"(?<!\w){re.escape(field)}(?!\w)", error["message"]), error["message"]


@pytest.mark.clause("POST-5")
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"a":NaN}', b"1 2"])
def test_a_body_that_is_no_object_is_400(node: Node, body: bytes) -> None:
    response = node.http.post(CHAT, content=body)
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")


@pytest.mark.clause("POST-5")
def test_null_is_as_absent_and_the_unknown_is_ignored(node: Node) -> None:
    nulls = dict.fromkeys(["temperature", "max_tokens", "stop", "tools", "n", "stream_options"])
    response = node.post(None, SHORT, **nulls, service_tier="auto", of_tomorrow={"a": [1]})
    assert response.status_code == 200


@pytest.mark.clause("POST-6")
def test_a_prompt_that_does_not_fit_is_refused_with_its_size(node: Node) -> None:
    limit = node.models()[0]["meta"]["n_ctx"]
    response = node.post(None, "x" * (limit + 1))
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "exceed_context_size_error")
    assert (error["n_ctx"], error["n_prompt_tokens"] > limit) == (limit, True)


@pytest.mark.clause("POST-7")
def test_keep_alives_do_not_bring_the_status_line(node: Node, other: Node, name: str) -> None:
    words = "[[tokens=5 rate=0 prefill_s=4]]"
    with node.posting(name, words, sse_ping_interval=1) as post:
        other.found(name)
        with other.reading(name) as reader:
            assert reader.containing(b":\n\n").startswith(b":")
            assert not post.answers()
        assert post.whole().startswith(b":")
        assert (post.status, post.headers["x-stream-state"]) == (200, "running")


@pytest.mark.clause("POST-7")
def test_the_status_line_waits_only_so_long_for_the_answer(frail: Frail, name: str) -> None:
    node, other = frail.nodes
    with node.posting(name, "[[prefill_s=60]]", model="one") as post:
        assert post.status == 200
        assert other.found(name)["total_bytes"] == 0
        other.stop(name)
        assert post.whole() == end_comment("stopped", "client")


@pytest.mark.clause("POST-7")
def test_a_failure_before_the_answer_is_500(node: Node, name: str) -> None:
    response = node.post(name, "[[tokens=5 rate=0 fail_at=0]]", stream=True)
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (500, 500, "server_error")


@pytest.mark.clause("POST-7")
def test_a_stop_before_the_answer_is_400(node: Node, other: Node, name: str) -> None:
    with node.posting(name, "[[prefill_s=60]]") as post:
        other.reaches(name, "running")
        other.stop(name)
        assert post.status == 400


@pytest.mark.clause("POST-7")
@pytest.mark.parametrize("stream", [True, False])
def test_an_end_before_the_answer_that_may_not_come_again_is_503(
    node: Node, db: Redis, name: str, stream: bool
) -> None:
    with node.posting(name, "[[prefill_s=60]]", stream=stream) as post:
        session = stored(db, name)
        session.reaches("running")
        session.conclude("failed", "limit")
        assert (post.status, post.headers["retry-after"].isdigit()) == (503, True)


@pytest.mark.clause("POST-7")
def test_an_error_after_the_first_byte_is_in_the_body(node: Node, name: str) -> None:
    with node.posting(name, "[[tokens=9 rate=20 fail_at=3]]") as post:
        assert post.status == 200
        assert [one["error"]["code"] for one in events(post.whole()) if "error" in one] == [500]


def masked(log: bytes, model: str) -> bytes:
    """A log less what differs from answer to answer."""
    log = re.sub(rb'"id":"chatcmpl-[0-9A-Za-z]{32}"', b'"id":"<id>"', log)
    log = re.sub(rb'"created":\d{10},', b'"created":"<seconds>",', log)
    log = log.replace(b'"model":' + json.dumps(model).encode(), b'"model":"<model>"')
    log = re.sub(rb'"cached_tokens":\d+', b'"cached_tokens":"<n>"', log)
    head, mark, timings = log.partition(b'"timings":')
    return head + mark + re.sub(rb":\d+(\.\d+)?(?=[,}])", b':"<n>"', timings)


@pytest.mark.clause("POST-8")
def test_the_bytes_of_an_answer_are_the_golden_ones(node: Node, model: str, name: str) -> None:
    words = "[[tokens=20 rate=0 seed=7]]"
    usage = {"include_usage": True}
    body = node.post(name, words, stream=True, stream_options=usage).content
    assert masked(body, model).decode() == GOLDEN.read_text("utf-8")


@pytest.mark.clause("POST-8")
def test_the_streamed_body_is_the_log_from_its_first_byte(
    node: Node, other: Node, name: str
) -> None:
    with node.posting(name, "[[tokens=20 rate=100]]") as post:
        with other.reading(name) as reader:
            log = reader.whole() if reader.status == 200 else b""
        assert post.headers["x-stream-offset"] == "0"
        assert post.whole() == other.read(name).content
    assert log in (b"", post.data)


@pytest.mark.clause("POST-8")
def test_a_stream_names_itself_throughout_and_tells_the_timings_last(
    node: Node, model: str
) -> None:
    log = node.post(None, SHORT, stream=True).content
    role, *parts, finish = events(log)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert all(part["choices"][0]["delta"]["content"] for part in parts)
    assert finish["choices"][0]["finish_reason"] == "stop"
    named = {(one["id"], one["created"], one["model"]) for one in (role, *parts, finish)}
    assert {one[2] for one in named} == {model} and len(named) == 1
    assert ["timings" in one for one in (role, *parts, finish)].count(True) == 1
    assert "timings" in finish
    assert frames(log)[-1] == b"data: [DONE]"


@pytest.mark.clause("POST-8")
def test_a_text_is_cut_between_code_points(node: Node) -> None:
    with node.posting(None, "[[tokens=400 rate=2000 seed=5]]") as post:
        while data := post.chunk():
            assert "\ufffd" not in data.decode("utf-8")
    text = text_of(events(post.data))
    assert any(len(character.encode()) == 4 for character in text)


@pytest.mark.clause("POST-8")
def test_what_is_no_utf8_becomes_the_replacement_character(node: Node) -> None:
    words = "[[tokens=400 rate=0 seed=5]]"
    prompt = open_scripted_engine().prompt_tokens([{"role": "user", "content": words}])

    def shown(tokens: int) -> str:
        return scripted_answer(prompt, SamplingParams(seed=0), tokens)

    halved = next(tokens for tokens in range(400) if shown(tokens).endswith("\ufffd"))
    log = node.post(None, words, stream=True, max_tokens=halved).content
    assert text_of(events(log)) == shown(halved)


@pytest.mark.clause("POST-9")
def test_a_whole_answer_is_the_fold_of_its_log(node: Node, other: Node, name: str) -> None:
    answer = node.post(name, SHORT).json()
    parts = events(other.read(name).content)
    [choice] = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice["message"] == {"role": "assistant", "content": text_of(parts)}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 12
    assert {one["id"] for one in parts} == {answer["id"]}


@pytest.mark.clause("POST-9")
def test_the_log_of_a_whole_answer_is_read_while_it_runs(
    node: Node, other: Node, name: str
) -> None:
    with node.posting(name, "[[tokens=60 rate=20]]", stream=False) as post:
        other.found(name)
        with other.reading(name) as reader:
            reader.first(1)
            assert not post.answers()
            assert reader.whole().endswith(DONE)
        assert post.status == 200


def assert_named(answer: Exchange | Any, found: dict[str, Any]) -> None:
    """The headers of an answer say which session it is."""
    assert answer.headers["x-stream-epoch"] == str(found["epoch"])
    assert answer.headers["x-stream-offset"] == "0"
    assert answer.headers["x-stream-state"] in ("running", "completed")
    assert answer.headers["x-completion-id"] == found["completion_id"]


@pytest.mark.clause("POST-10")
def test_a_stream_is_named_and_left_as_it_is(node: Node, name: str) -> None:
    body = json.dumps(asking(SHORT, stream=True)).encode()
    wishes = {**naming(name), b"Accept-Encoding": b"gzip, br, zstd, deflate"}
    with node.exchange("POST", CHAT, wishes, body) as post:
        post.whole()
        assert_named(post, node.found(name))
        assert post.headers["content-type"].split(";")[0] == "text/event-stream"
        assert post.headers["cache-control"] == "no-store, no-transform"
        assert post.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in post.headers


@pytest.mark.clause("POST-10")
def test_a_whole_answer_is_named(node: Node, name: str) -> None:
    response = node.post(name, SHORT)
    assert response.headers["content-type"] == "application/json"
    assert_named(response, node.found(name))


@pytest.mark.clause("POST-11")
def test_the_only_model_need_not_be_named(node: Node, model: str) -> None:
    assert node.post(None, SHORT).json()["model"] == model


@pytest.mark.clause("POST-11")
def test_an_unknown_model_is_400(node: Node) -> None:
    response = node.post(None, SHORT, model="nowhere")
    assert response.status_code == 400
    assert "nowhere" in error_of(response)["message"]


@pytest.mark.clause("POST-11")
def test_of_several_models_one_must_be_named(node: Node, name: str, ghost: Announce) -> None:
    ghost({"name": name, "status": "loaded"})
    response = node.post(None, SHORT)
    assert (response.status_code, "model" in error_of(response)["message"]) == (400, True)


@pytest.mark.clause("POST-11")
def test_a_model_that_no_worker_serves_now_is_503(node: Node, name: str, ghost: Announce) -> None:
    ghost({"name": name, "status": "failed"})
    response = node.post(None, SHORT, model=name)
    assert (response.status_code, response.headers["retry-after"].isdigit()) == (503, True)


@pytest.mark.clause("POST-15")
def test_what_a_slot_has_computed_of_a_prompt_is_told_and_not_computed_again(node: Node) -> None:
    words = f"{secrets.token_hex(200)} [[tokens=3 rate=0]]"

    def spent(**fields: object) -> tuple[int, int, int]:
        answer = node.post(None, words, **fields).json()
        details, timings = answer["usage"]["prompt_tokens_details"], answer["timings"]
        return details["cached_tokens"], timings["cache_n"], timings["prompt_n"]

    cached, cache_n, whole = spent()
    assert (cached, cache_n) == (0, 0)
    until(lambda: spent()[0] > 0)  # as soon as a worker is asked again
    cached, cache_n, computed = max(spent() for _ in range(4))
    assert cached == cache_n > 0
    assert 0 < computed == whole - cache_n
    assert max(spent(cache_prompt=False) for _ in range(4))[:2] == (0, 0)


@pytest.mark.clause("POST-18")
def test_an_answer_may_have_a_limit_of_time(node: Node) -> None:
    answer = node.post(None, "[[tokens=4000 rate=400 seed=3]]", t_max_predict_ms=50).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert "\n" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] < 4000


@pytest.mark.clause("POST-20")
@pytest.mark.parametrize(
    ("said", "indent", "shown", "reason"),
    [
        ("def f():\n  a\n  b\nc", 2, "def f():\n  a\n  b\n", "length"),
        ("def f():\n\ta\n", 1, "def f():\n\ta\n", "stop"),
        ("def f():\n  a\nc", 0, "def f():\n  a\nc", "stop"),
    ],
)
def test_an_answer_may_be_a_block(
    node: Node, said: str, indent: int, shown: str, reason: str
) -> None:
    answer = node.post(None, f"[[say]]{said}[[/say]]", n_indent=indent).json()["choices"][0]
    assert (answer["message"]["content"], answer["finish_reason"]) == (shown, reason)
