"""Which session answers a POST: a new one, the one of its idempotency key, or the live one."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from node_harness import (
    HELLO,
    MODEL,
    NodeHarness,
    error_of,
    memory_node,
    named,
    served_node,
    wait_until,
)

from replay.identity import KEYED
from replay.records import State

pytestmark = pytest.mark.anyio

CALLERS = 20


async def said(posting: asyncio.Task[httpx.Response], node: NodeHarness) -> httpx.Response:
    """The answer of a POST whose session a worker produces now."""
    producer = await node.producer()
    await producer.say("one", " two")
    await producer.complete()
    return await posting


async def answered(node: NodeHarness, **asked: str) -> httpx.Response:
    """A POST and its whole answer, as a stream."""
    return await said(asyncio.create_task(node.post(stream=True, **asked)), node)


class TestIdempotencyKey:
    """One generation for each intent."""

    @pytest.mark.parametrize("name", ["", "c"])
    async def test_equal_posts_share_one_generation(self, node: NodeHarness, name: str) -> None:
        posts = [
            asyncio.create_task(node.post(name=name, key="k", stream=True)) for _ in range(CALLERS)
        ]
        await wait_until(lambda: node.app.state.node.tailer.readers == CALLERS)
        assert len(node.queue.jobs) == 1
        first = await said(posts[0], node)
        answers = await asyncio.gather(*posts)
        late = await node.post(name=name, key="k", stream=True)
        for answer in (*answers, late):
            assert (answer.status_code, answer.content) == (200, first.content)
            for header in ("x-stream-epoch", "x-completion-id", "x-stream-offset"):
                assert answer.headers[header] == first.headers[header]
        assert node.queue.jobs == []

    async def test_a_repetition_may_not_ask_for_another_body(self, node: NodeHarness) -> None:
        before = await answered(node, key="k")
        other = await node.post(key="k", stream=False)
        assert (other.status_code, node.queue.jobs) == (422, [])
        assert "'k'" in error_of(other)["message"]
        assert (await node.post(key="k", stream=True)).content == before.content

    async def test_a_repetition_is_folded_as_the_first_was(self, node: NodeHarness) -> None:
        first = await said(asyncio.create_task(node.post(key="k")), node)
        again = await node.post(key="k")
        assert again.json() == first.json()
        assert again.headers["x-completion-id"] == first.headers["x-completion-id"]

    async def test_a_repetition_needs_no_worker(self, node: NodeHarness) -> None:
        first = await answered(node, name=f"c::{MODEL}", key="k")
        node.workers.records, node.preparer.result = [], None
        node.forget_picture()
        again = await node.post(name=f"c::{MODEL}", key="k", stream=True)
        assert again.content == first.content

    async def test_the_conversation_of_a_bare_key_is_told_and_can_be_used(
        self, node: NodeHarness
    ) -> None:
        key = f"a b::{MODEL}"
        first = await answered(node, key=key)
        name = first.headers["x-conversation-id"]
        assert name == KEYED + key
        read = await node.http.get("/v1/stream", params={"conv_id": name})
        assert read.content == first.content
        found = await node.http.post("/v1/streams/lookup", json={"conversation_ids": [name]})
        assert [one["conversation_id"] for one in found.json()] == [name]
        shorter = await node.http.get("/v1/stream", params={"conv_id": KEYED + "a b"})
        assert shorter.status_code == 404
        gone = await node.http.delete("/v1/stream", params={"conv_id": name})
        assert gone.headers["x-stream-epoch"] == first.headers["x-stream-epoch"]

    async def test_with_a_name_no_other_is_told(self, node: NodeHarness) -> None:
        assert "x-conversation-id" not in (await answered(node, name="c", key="k")).headers

    async def test_a_key_is_one_intent_in_each_conversation(self, node: NodeHarness) -> None:
        answers = [await answered(node, name=name, key="k") for name in ("", "c", "d", "c::x")]
        assert len({answer.headers["x-completion-id"] for answer in answers}) == 4

    async def test_a_key_is_its_tenants_own(self) -> None:
        async with memory_node(api_keys="one,two") as node:
            for key in ("one", "two"):
                node.http.headers["Authorization"] = f"Bearer {key}"
                assert (await answered(node, key="k")).status_code == 200
            assert node.queue.numbers == 2

    async def test_after_its_retention_the_answer_is_gone_and_not_made_again(self) -> None:
        async with memory_node(retention_s=0.001) as node:
            epoch = (await answered(node, key="k")).headers["x-stream-epoch"]
            await asyncio.sleep(0.002)  # the retention's millisecond must have passed
            again = await node.post(key="k", stream=True)
            assert (again.status_code, error_of(again)["epoch"]) == (410, int(epoch))
            assert node.queue.jobs == []

    @pytest.mark.parametrize("stream", [True, False])
    async def test_what_was_stopped_stays_so(self, node: NodeHarness, stream: bool) -> None:
        first = asyncio.create_task(node.post(key="k", stream=stream))
        producer = await node.producer()
        await node.http.delete("/v1/stream", params={"conv_id": KEYED + "k"})
        for answer in (await first, await node.post(key="k", stream=stream)):
            assert answer.status_code == 400
            assert (error_of(answer)["state"], error_of(answer)["reason"]) == ("stopped", "client")
            assert answer.headers["x-stream-epoch"] == str(producer.claim.ref.epoch)
        assert node.queue.jobs == []

    async def test_what_was_replaced_hears_of_its_own_epoch(self, node: NodeHarness) -> None:
        first = asyncio.create_task(node.post(name="c", key="k", stream=True))
        producer = await node.producer()
        await producer.say("half")
        second = asyncio.create_task(node.post(name="c", stream=True))
        await wait_until(lambda: bool(node.queue.jobs))
        again = await node.post(name="c", key="k", stream=True)
        assert again.content == (await first).content
        assert again.content.endswith(b': end {"state":"stopped","reason":"replaced"}\n\n')
        assert (await said(second, node)).status_code == 200

    async def test_what_was_never_queued_may_be_asked_for_again(self, node: NodeHarness) -> None:
        node.queue.away = True
        assert (await node.post(key="k", stream=True)).status_code == 503
        node.queue.away = False
        assert (await answered(node, key="k")).status_code == 200

    async def test_a_refusal_uses_no_key_up(self, node: NodeHarness) -> None:
        node.workers.records = []
        assert (await node.post(key="k", stream=True)).status_code == 503
        node.workers.records = type(node.workers)().records
        node.forget_picture()
        assert (await answered(node, key="k")).status_code == 200

    async def test_a_client_that_leaves_does_not_stop_it(self, served: NodeHarness) -> None:
        posting = asyncio.create_task(served.post(key="k", stream=True))
        producer = await served.producer()
        await producer.say("so far")
        posting.cancel()
        await wait_until(lambda: len(served.app.state.connections) == 0)
        await producer.complete()
        assert b"so far" in (await served.post(key="k", stream=True)).content
        record = await served.log.record(producer.claim.ref)
        assert record is not None and record.state is State.COMPLETED

    @pytest.mark.parametrize(
        "key", [b"", b"k" * 256, "\u00e9".encode(), b"a\tb"], ids=["empty", "long", "UTF-8", "tab"]
    )
    async def test_a_key_that_none_may_be_is_refused(self, node: NodeHarness, key: bytes) -> None:
        headers = {b"Idempotency-Key": key}
        json = {"messages": HELLO}
        response = await node.http.post("/v1/chat/completions", json=json, headers=headers)
        assert response.status_code == 400
        assert "Idempotency-Key" in error_of(response)["message"]

    async def test_two_keys_are_refused(self, node: NodeHarness) -> None:
        headers = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")]
        json = {"messages": HELLO}
        response = await node.http.post("/v1/chat/completions", json=json, headers=headers)
        assert "more than once" in error_of(response)["message"]

    async def test_no_client_names_a_conversation_as_a_key_does(self, node: NodeHarness) -> None:
        response = await node.post(name=KEYED + "k")
        assert (response.status_code, node.queue.jobs) == (400, [])

    async def test_a_browser_may_send_the_key_and_read_the_name(self, node: NodeHarness) -> None:
        asks = {
            "Origin": "https://page",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "idempotency-key",
        }
        allowed = await node.http.options("/v1/chat/completions", headers=asks)
        assert "idempotency-key" in allowed.headers["access-control-allow-headers"].lower()
        headers = {**named("", "k"), b"Origin": b"https://page"}
        posting = node.http.post(
            "/v1/chat/completions", json={"messages": HELLO, "stream": True}, headers=headers
        )
        answer = await said(asyncio.create_task(posting), node)
        assert "X-Conversation-Id" in answer.headers["access-control-expose-headers"]


async def test_what_redis_may_have_forgotten_opens_nothing(node: NodeHarness) -> None:
    recovery = node.app.state.node.recovery
    await recovery._ask()
    recovery.look()
    for asked in ({"key": "k"}, {"name": "c", "if_busy": "reject"}):
        response = await node.post(stream=True, **asked)
        assert (response.status_code, node.queue.jobs) == (503, [])
        assert "retry-after" in response.headers
    assert (await answered(node, name="c")).status_code == 200


class TestIfBusy:
    """What a POST does to the live session of its conversation."""

    async def test_an_unknown_policy_is_refused(self, node: NodeHarness) -> None:
        for if_busy in ("wait", "", "replace&if_busy=queue"):
            path = f"/v1/chat/completions?if_busy={if_busy}"
            response = await node.http.post(path, json={"messages": HELLO})
            assert response.status_code == 400
            assert "if_busy" in error_of(response)["message"]

    @pytest.mark.parametrize("if_busy", ["replace", "attach", "queue", "reject"])
    async def test_where_nothing_is_live_it_opens(self, node: NodeHarness, if_busy: str) -> None:
        first = await answered(node, name="c", if_busy=if_busy)
        second = await answered(node, name="c", if_busy=if_busy)
        assert first.headers["x-stream-epoch"] != second.headers["x-stream-epoch"]

    async def test_reject_touches_nothing(self, node: NodeHarness) -> None:
        posting = asyncio.create_task(node.post(name="c", stream=True))
        producer = await node.producer()
        rejected = await node.post(name="c", if_busy="reject", key="k")
        assert rejected.status_code == 409
        assert error_of(rejected)["current_epoch"] == producer.claim.ref.epoch
        await producer.complete()
        assert (await posting).status_code == 200
        assert (await answered(node, name="c", if_busy="reject", key="k")).status_code == 200

    @pytest.mark.parametrize("stream", [True, False])
    async def test_attach_answers_with_the_live_session(
        self, node: NodeHarness, stream: bool
    ) -> None:
        posting = asyncio.create_task(node.post(name="c", stream=True))
        producer = await node.producer()
        await producer.say("one")
        messages = [{"role": "user", "content": "another question"}]
        attaching = asyncio.create_task(
            node.post(name="c", if_busy="attach", stream=stream, messages=messages)
        )
        await wait_until(lambda: node.app.state.node.tailer.readers == 2)
        await producer.complete()
        attached, first = await attaching, await posting
        assert attached.headers["x-completion-id"] == first.headers["x-completion-id"]
        if stream:
            assert attached.content == first.content
        else:
            assert attached.json()["choices"][0]["message"]["content"] == "one"
        assert node.queue.jobs == []

    async def test_queue_answers_one_after_the_other(self, node: NodeHarness) -> None:
        posts = []
        for number in range(3):
            posts.append(asyncio.create_task(node.post(name="c", if_busy="queue", stream=True)))
            await wait_until(lambda number=number: node.queue.numbers > number)
        answers = [await said(post, node) for post in posts]
        epochs = [int(answer.headers["x-stream-epoch"]) for answer in answers]
        assert epochs == sorted(set(epochs))
        assert all(answer.content.endswith(b"[DONE]\n\n") for answer in answers)

    async def test_a_stop_refuses_who_waits(self, node: NodeHarness) -> None:
        first = asyncio.create_task(node.post(name="c"))
        await node.producer()
        waiting = asyncio.create_task(node.post(name="c", if_busy="queue"))
        await wait_until(lambda: node.app.state.node.tailer.readers == 2)
        await node.http.delete("/v1/stream?conv_id=c")
        assert [(await one).status_code for one in (first, waiting)] == [400, 400]
        assert node.queue.jobs == []

    async def test_the_waiting_has_an_end(self) -> None:
        async with memory_node(busy_wait_s=0.01) as node:
            first = asyncio.create_task(node.post(name="c"))
            producer = await node.producer()
            late = await node.post(name="c", if_busy="queue")
            assert (late.status_code, error_of(late)["reason"]) == (503, "busy")
            assert late.headers["retry-after"] == "1"
            await producer.complete()
            assert (await first).status_code == 200
            assert (await answered(node, name="c", if_busy="queue")).status_code == 200

    async def test_who_leaves_the_line_is_forgotten(self) -> None:
        async with served_node() as node:
            first = asyncio.create_task(node.post(name="c"))
            producer = await node.producer()
            leaving = asyncio.create_task(node.post(name="c", if_busy="queue"))
            await wait_until(lambda: node.app.state.node.tailer.readers == 2)
            leaving.cancel()
            await wait_until(lambda: node.app.state.node.tailer.readers == 1)
            await producer.complete()
            assert (await first).status_code == 200
            assert (await answered(node, name="c", if_busy="queue")).status_code == 200

    async def test_a_drain_ends_the_waiting(self) -> None:
        async with served_node() as node:
            first = asyncio.create_task(node.post(name="c"))
            await node.producer()
            waiting = asyncio.create_task(node.post(name="c", if_busy="queue"))
            await wait_until(lambda: node.app.state.node.tailer.readers == 2)
            node.app.state.presence.draining = True
            answer = await waiting
            assert (answer.status_code, error_of(answer)["reason"]) == (503, "draining")
            assert "retry-after" in answer.headers
            first.cancel()
