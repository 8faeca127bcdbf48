"""POST: what is refused, what opens a session, and when the status line goes out."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from node_harness import (
    HELLO,
    MODEL,
    NodeHarness,
    error_of,
    memory_node,
    model,
    named,
    served_node,
    wait_until,
    worker,
)

from api.generations import FirstBytes
from replay import frames
from replay.errors import LogUnavailable
from replay.prepare import Refused
from replay.records import REASONS, State

pytestmark = pytest.mark.anyio


async def test_a_stream_is_exactly_the_log(node: NodeHarness) -> None:
    sent = await node.answered("c", "one", " two")
    record = await node.log.resolve("default", "c", None)
    page = await node.log.read(record.ref, 0)
    assert sent == b"".join(chunk.data for chunk in page.chunks)
    assert sent.endswith(b"data: [DONE]\n\n")


async def test_the_headers_name_the_session(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.say("hi")
    await producer.complete()
    response = await posting
    record = await node.log.resolve("default", "c", None)
    assert response.headers["x-stream-epoch"] == str(record.epoch)
    assert response.headers["x-stream-offset"] == "0"
    assert response.headers["x-stream-state"] == "running"
    assert response.headers["x-completion-id"] == record.completion_id
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers


async def test_without_stream_the_log_is_folded(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post())
    producer = await node.producer()
    await producer.put(frames.PING)
    await producer.say("one", " two")
    await producer.complete()
    answer = (await posting).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "finish_reason": "stop",
            "index": 0,
            "message": {"role": "assistant", "content": "one two"},
        }
    ]
    assert answer["usage"]["total_tokens"] == 5


async def test_the_conversation_is_the_name_less_the_model(node: NodeHarness) -> None:
    await node.answered(f"user::1::{MODEL}")
    record = await node.log.resolve("default", "user::1", None)
    assert (record.conversation, record.name) == ("user::1", f"user::1::{MODEL}")


async def test_an_alias_of_the_model_counts_as_the_model(node: NodeHarness) -> None:
    node.workers.records = [worker("w", model(MODEL, aliases=("small",)))]
    posting = asyncio.create_task(node.post(name="c::small", model="small", stream=True))
    producer = await node.producer()
    assert (producer.claim.ref.conversation_id, producer.claim.ref.model) == ("c", MODEL)
    await producer.complete()
    await posting


async def test_a_plain_request_is_a_conversation_of_its_own(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post())
    producer = await node.producer()
    record = await node.log.record(producer.claim.ref)
    assert record is not None
    assert (record.owner, record.retention_ms) == ("node-1", 60_000)
    assert record.conversation.startswith("~")
    await producer.complete()
    await posting


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "invalid body"),
        (b"[]", "expected a JSON object"),
        (b'{"messages":"\xff"}', "not UTF-8"),
        (b'{"messages":[],"temperature":NaN}', "NaN"),
        (b'{"messages":[],"temperature":1e999}', "out of range"),
        (b"{}", "'messages' is required"),
        (b'{"messages":[{"role":"user","content":"x"}],"tools":[{}]}', "Field 'tools[0].type'"),
    ],
)
async def test_a_bad_body_is_refused_and_touches_nothing(
    node: NodeHarness, body: bytes, message: str
) -> None:
    before = await node.answered("c")
    response = await node.http.post("/v1/chat/completions", content=body, headers=named("c"))
    assert response.status_code == 400
    assert message in error_of(response)["message"]
    assert (await node.http.get("/v1/stream?conv_id=c")).content == before


@pytest.mark.clause("LIMIT-3")
async def test_a_compressed_body_is_refused_by_its_header(node: NodeHarness) -> None:
    body = gzip.compress(b'{"messages": []}')
    coded = {"Content-Encoding": "gzip"}
    response = await node.http.post("/v1/chat/completions", content=body, headers=coded)
    assert response.status_code == 400
    assert "'Content-Encoding'" in error_of(response)["message"]


async def test_a_body_beyond_the_limit_is_413() -> None:
    async with memory_node(body_bytes_max=100) as node:
        response = await node.post(pad="x" * 200)
        assert response.status_code == 413
        assert "100 bytes" in error_of(response)["message"]


@pytest.mark.parametrize(
    "value", [b"a\x01b", b"\xc2\x85", b"\xff\xfe", b"x" * 1025], ids=["C0", "C1", "bytes", "long"]
)
async def test_a_name_that_no_session_may_have_is_refused(node: NodeHarness, value: bytes) -> None:
    response = await node.http.post(
        "/v1/chat/completions",
        json={"messages": HELLO},
        headers={b"X-Conversation-Id": value},
    )
    assert response.status_code == 400
    assert "X-Conversation-Id" in error_of(response)["message"]


@pytest.mark.parametrize(
    "name", ["a/b", "50%25", "{x}", "two words", "🙂", "é" * 512, "a::b::c", "x::org/model:Q4"]
)
async def test_a_name_is_kept_verbatim(node: NodeHarness, name: str) -> None:
    await node.answered(name)
    found = await node.http.post("/v1/streams/lookup", json={"conversation_ids": [name]})
    assert [one["conversation_id"] for one in found.json()] == [name]


async def test_of_several_models_one_must_be_named(node: NodeHarness) -> None:
    node.workers.records = [worker("w", model("a"), model("b"))]
    response = await node.post()
    assert error_of(response)["message"] == "model name is missing from the request"


async def test_an_unknown_model_is_a_mistake(node: NodeHarness) -> None:
    response = await node.post(model="other")
    assert error_of(response)["message"] == "model 'other' not found"
    assert response.status_code == 400


async def test_without_any_worker_it_is_503(node: NodeHarness) -> None:
    node.workers.records = []
    response = await node.post()
    assert (response.status_code, error_of(response)["reason"]) == (503, "no worker")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(("status", "reason"), [("loading", "loading"), ("loaded", "no worker")])
async def test_a_question_that_nobody_answers_is_503(
    node: NodeHarness, status: str, reason: str
) -> None:
    node.workers.records = [worker("w", model(MODEL, status))]
    node.preparer.result = None
    response = await node.post()
    assert (response.status_code, error_of(response)["reason"]) == (503, reason)


async def test_a_prompt_that_is_too_long_tells_both_numbers(node: NodeHarness) -> None:
    node.preparer.result = Refused("context", "too long", prompt_tokens=9000, context_tokens=8192)
    error = error_of(await node.post(stream=True))
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9000, 8192)


@pytest.mark.parametrize(
    ("refused", "status"),
    [(Refused("invalid", "bad", param="messages"), 400), (Refused("engine", "oops"), 500)],
)
async def test_what_the_worker_refuses_opens_nothing(
    node: NodeHarness, refused: Refused, status: int
) -> None:
    node.preparer.result = refused
    assert (await node.post(name="c")).status_code == status
    assert (await node.http.get("/v1/stream?conv_id=c")).status_code == 404


async def test_a_job_that_cannot_be_queued_ends_the_session(node: NodeHarness) -> None:
    node.queue.away = True
    response = await node.post(name="c", stream=True)
    assert response.status_code == 503
    record = await node.log.resolve("default", "c", None)
    assert (record.state, record.reason) == (State.FAILED, "queue")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_early_failure_is_a_plain_error(node: NodeHarness, stream: bool) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=stream))
    producer = await node.producer()
    await producer.put(frames.PING)
    await producer.fail("no luck")
    response = await posting
    assert response.status_code == 500
    assert error_of(response)["message"] == "no luck"


async def test_a_late_failure_is_told_in_band(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.say("so far")
    await producer.fail("no luck")
    response = await posting
    assert response.status_code == 200
    assert response.content.endswith(b': end {"state":"failed","reason":"engine"}\n\n')
    assert b"no luck" in response.content and b"[DONE]" not in response.content


BROKEN = [(state, why) for state in (State.FAILED, State.LOST) for why in sorted(REASONS[state])]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("said", ["", "so far"])
@pytest.mark.parametrize(("state", "reason"), BROKEN)
async def test_what_failed_or_was_lost_never_looks_complete(
    node: NodeHarness, state: State, reason: str, said: str, stream: bool
) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=stream))
    producer = await node.producer()
    if said:
        await producer.say(said)
    look = await node.log.look(producer.claim.ref.conversation)
    assert look is not None
    closing = frames.closing(look.dialect, state, reason)
    await node.log.reap(look, state=state, reason=reason, closing=closing, despite_lease=True)
    response = await posting
    if stream and said:
        assert (response.status_code, response.content.endswith(closing)) == (200, True)
    else:
        assert response.status_code in (500, 503)
        assert (error_of(response)["state"], error_of(response)["reason"]) == (state, reason)
    for offset in range(0, producer.end + len(closing), 29):
        rest = (await node.http.get(f"/v1/stream?conv_id=c&from={offset}")).content
        assert closing.endswith(rest) or rest.endswith(closing)
        assert b"[DONE]" not in rest and b'"finish_reason":"' not in rest
    assert closing.startswith(b'data: {"error":') and closing.count(b": end ") == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stop_while_queued_ends_the_waiting_post(node: NodeHarness, stream: bool) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=stream))
    await wait_until(lambda: bool(node.queue.jobs))
    assert (await node.http.delete("/v1/stream?conv_id=c")).status_code == 204
    response = await posting
    assert response.status_code == 400
    assert "cancelled" in error_of(response)["message"]
    assert node.queue.jobs == []


async def test_a_newer_post_ends_the_waiting_one(node: NodeHarness) -> None:
    first = asyncio.create_task(node.post(name="c"))
    await wait_until(lambda: bool(node.queue.jobs))
    dead = node.queue.jobs[0]
    second = asyncio.create_task(node.post(name="c"))
    error = error_of(await first)
    assert (error["code"], error["state"], error["reason"]) == (400, "stopped", "replaced")
    await wait_until(lambda: len(node.queue.jobs) == 1 and dead not in node.queue.jobs)
    await (await node.producer()).complete()
    assert (await second).status_code == 200


async def test_keep_alives_before_the_answer_are_part_of_the_body(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.put(frames.comment("queued 1"))
    await producer.say("hi")
    await producer.complete()
    assert (await posting).content.startswith(b": queued 1\n\ndata: ")


async def test_the_status_line_waits_no_longer_than_its_limit() -> None:
    async with (
        served_node(status_timeout_s=0.05) as node,
        node.posting(name="c") as response,
    ):
        assert response.headers["x-stream-state"] == "queued"
        producer = await node.producer()
        await producer.say("hi")
        await producer.complete()
        body = b"".join([part async for part in response.aiter_raw()])
    assert body.endswith(b"[DONE]\n\n")


async def test_keep_alives_alone_do_not_decide_the_status(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    await producer.put(frames.PING)
    await producer.put(frames.PING)
    await producer.fail()
    assert (await posting).status_code == 500


@pytest.mark.parametrize("stream", [True, False])
async def test_a_plain_session_stops_when_its_client_leaves(
    served: NodeHarness, stream: bool
) -> None:
    posting = asyncio.create_task(served.post(stream=stream))
    producer = await served.producer()
    await producer.say("so far")
    posting.cancel()
    record = await ended(served, producer.claim.ref)
    assert (record.state, record.reason) == (State.STOPPED, "disconnected")


async def test_a_queued_plain_session_leaves_the_queue_with_its_client(
    served: NodeHarness,
) -> None:
    posting = asyncio.create_task(served.post(stream=True))
    await wait_until(lambda: bool(served.queue.jobs))
    posting.cancel()
    await wait_until(lambda: not served.queue.jobs)


async def test_a_named_session_outlives_its_client(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    producer = await served.producer()
    await producer.say("so far")
    posting.cancel()
    await wait_until(lambda: len(served.app.state.connections) == 0)
    await producer.say(" and on")
    await producer.complete()
    replayed = await served.http.get("/v1/stream?conv_id=c")
    assert b"so far" in replayed.content and b" and on" in replayed.content


async def test_a_named_session_stays_queued_without_its_client(served: NodeHarness) -> None:
    posting = asyncio.create_task(served.post(name="c", stream=True))
    await wait_until(lambda: bool(served.queue.jobs))
    posting.cancel()
    await wait_until(lambda: len(served.app.state.connections) == 0)
    await (await served.producer()).complete()
    assert (await served.http.get("/v1/stream?conv_id=c")).status_code == 200


async def ended(node: NodeHarness, ref: Any) -> Any:
    """The record of a session, once it has ended."""
    async with asyncio.timeout(5):
        while True:
            record = await node.log.record(ref)
            assert record is not None
            if record.state.is_final:
                return record
            await asyncio.sleep(0.002)


class TestFirstBytes:
    """The status line's rule."""

    def test_a_comment_is_no_answer(self) -> None:
        first = FirstBytes()
        first.feed(b":\n\n: queued 3\n\n")
        assert (first.is_answer, first.error) == (False, None)

    def test_a_chunk_after_comments_is_one(self) -> None:
        first = FirstBytes()
        first.feed(b":\n\ndata: {}\n\n")
        assert first.is_answer

    def test_an_error_event_is_none_and_is_remembered(self) -> None:
        first = FirstBytes()
        first.feed(frames.closing("openai.chat", State.LOST, "orphan"))
        assert not first.is_answer
        assert first.error == "the worker of this session died"


async def test_an_outage_before_the_status_line_leaves_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*args: Any, **more: Any) -> None:
        raise LogUnavailable("pulse")

    async with memory_node(status_timeout_s=0.01) as node:
        monkeypatch.setattr(node.log, "pulse", away)
        assert (await node.post(name="c", stream=True)).status_code == 503
        waiting = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
        assert "Tail.next" not in waiting
