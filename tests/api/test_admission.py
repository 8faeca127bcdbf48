"""Limits: who may open another session, and that no limit touches one that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from node_harness import (
    MODEL,
    MemoryQueue,
    NodeHarness,
    error_of,
    eventually,
    memory_node,
    quiet,
    wait_until,
)

from api.admission import Admission
from api.catalog import Model
from api.opening import capped
from api.problems import TooManySessions
from replay.request import GenerationRequest

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def waiting(node: NodeHarness, *names: str) -> AsyncIterator[None]:
    """A block in which these sessions are queued."""
    posts = [asyncio.create_task(node.post(name=name, stream=True)) for name in names]
    await wait_until(lambda: len(node.queue.jobs) == len(names))
    try:
        yield
    finally:
        for name in names:
            await node.http.delete(f"/v1/stream/{name}")
        await asyncio.gather(*posts)


def assert_too_many(response: httpx.Response, reason: str, limit: int) -> None:
    error = error_of(response)
    assert (error["code"], error["type"]) == (429, "rate_limit_error")
    assert (error["reason"], error["limit"]) == (reason, limit)
    assert int(response.headers["Retry-After"]) > 0


async def test_a_tenant_has_only_so_many_waiting() -> None:
    async with memory_node(tenant_queued_max=2, api_keys="one,two") as node:
        node.http.headers["Authorization"] = "Bearer one"
        async with waiting(node, "a", "b"):
            refused = await node.post(name="c")
            assert_too_many(refused, "queued", 2)
            assert (await node.http.get("/v1/stream/c")).status_code == 404
            node.http.headers["Authorization"] = "Bearer two"
            other = asyncio.create_task(node.post(name="z"))
            await wait_until(lambda: len(node.queue.jobs) == 3)
            await node.http.delete("/v1/stream/z")
            assert (await other).status_code == 400
            node.http.headers["Authorization"] = "Bearer one"
        again = asyncio.create_task(node.post(name="c"))
        await (await node.producer()).complete()
        assert (await again).status_code == 200


async def test_what_was_refused_may_come_as_soon_as_there_is_room() -> None:
    async with memory_node(tenant_queued_max=1) as node:
        async with waiting(node, "a"):
            assert (await node.post(name="b")).status_code == 429

        async def passes() -> bool:
            posting = asyncio.create_task(node.post(name="b"))
            await wait_until(lambda: posting.done() or bool(node.queue.jobs))
            if node.queue.jobs:
                await (await node.producer()).complete()
            return (await posting).status_code == 200

        await eventually(passes)


async def test_at_the_limit_everything_that_is_there_goes_on() -> None:
    async with memory_node(tenant_queued_max=1) as node, waiting(node, "a"):
        found = await node.http.post("/v1/streams/lookup", json={"conversation_ids": ["a"]})
        assert found.json()[0]["state"] == "queued"
        attached = asyncio.create_task(node.post(name="a", if_busy="attach", stream=True))
        await asyncio.sleep(0)
        assert (await node.post(name="b", if_busy="attach")).status_code == 429
        assert (await node.http.delete("/v1/stream/a?keep=true")).status_code == 204
        assert (await attached).status_code == 400


async def test_an_intent_is_answered_whatever_waits() -> None:
    async with memory_node(tenant_queued_max=1) as node:
        first = asyncio.create_task(node.post(name="k", key="1"))
        await (await node.producer()).complete()
        told = await first
        async with waiting(node, "a"):
            again = await node.post(name="k", key="1")
            assert (again.status_code, again.json()) == (200, told.json())
            assert (await node.post(name="k", key="2")).status_code == 429


async def test_a_burst_does_not_slip_through() -> None:
    async with memory_node(tenant_queued_max=3) as node:
        posts = [asyncio.create_task(node.post(name=f"c{n}", stream=True)) for n in range(20)]
        await wait_until(lambda: sum(post.done() for post in posts) == 17)
        refused = [post.result().status_code for post in posts if post.done()]
        assert refused == [429] * 17
        await wait_until(lambda: len(node.queue.jobs) == 3)
        for _, ref, _ in list(node.queue.jobs):
            await node.http.delete(f"/v1/stream/{ref.conversation_id}")
        await asyncio.gather(*posts)


async def test_a_model_has_only_so_many_waiting() -> None:
    async with memory_node(queue_depth_max=2) as node, waiting(node, "a", "b"):
        refused = await node.post(name="c")
        error = error_of(refused)
        assert (error["code"], error["type"], error["reason"]) == (
            503,
            "unavailable_error",
            "queue",
        )
        assert refused.headers["Retry-After"]


async def test_what_runs_counts_where_that_is_limited() -> None:
    async with memory_node(tenant_live_max=1) as node:
        posting = asyncio.create_task(node.post(name="a", stream=True))
        producer = await node.producer()
        await producer.say("one")
        assert node.queue.jobs == []
        assert_too_many(await node.post(name="b"), "live", 1)
        await producer.complete()
        await posting


async def test_a_count_is_taken_seldom_and_kept_up_meanwhile() -> None:
    counted: list[str] = []

    class Counting(MemoryQueue):
        async def depths(self, models: Any) -> list[int]:
            return [100 for _ in models]

        async def waiting(self, tenant: str, models: Any) -> int:
            counted.append(tenant)
            return 0

    async def live(tenant: str) -> int:
        raise AssertionError("not asked for")

    model = Model(MODEL, "loaded", (), 1.0, 1, 1, 10, 0, {})
    admission = Admission(quiet(tenant_queued_max=5), Counting(), live)
    for _ in range(5):
        async with admission.place("t", model, [model]):
            pass
    with pytest.raises(TooManySessions):
        async with admission.place("t", model, [model]):
            pass
    assert counted == ["t"]
    async with admission.place("other", model, [model]):
        pass


@pytest.mark.parametrize(
    ("asked", "limit", "context", "capped_to"),
    [
        (-1, 100, 50, -1),
        (-1, 100, 200, 100),
        (-1, 100, None, 100),
        (7, 100, 200, 7),
        (700, 100, 200, 100),
        (0, 1, 1, 0),
    ],
)
def test_an_answer_has_only_so_many_tokens(
    asked: int, limit: int, context: int | None, capped_to: int
) -> None:
    assert capped(asked, limit, context_tokens=context) == capped_to


async def test_the_cap_stands_in_the_record_and_names_have_a_length() -> None:
    async with memory_node(tokens_max=7, name_bytes_max=8) as node:
        posting = asyncio.create_task(node.post(name="12345678", max_tokens=1000))
        await wait_until(lambda: bool(node.queue.jobs))
        record = await node.log.record(node.queue.jobs[0][1])
        assert record is not None
        assert GenerationRequest.from_json(record.request).max_tokens == 7
        await (await node.producer()).complete()
        await posting
        assert "8 bytes" in error_of(await node.post(name="123456789"))["message"]
