"""Questions and answers over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from node_harness import eventually
from redis.asyncio import Redis

from api.inbox import Inbox
from replay import keys
from replay.prepare import Answer, Chat, Prepared, Question, Refused, Result, Text
from replay.redis_plane import connect
from replay.slot_order import SlotChanged, SlotOrder

pytestmark = pytest.mark.anyio

HELLO = Chat(({"role": "user", "content": "hi"},))


@pytest.fixture
async def worker(redis_url: str) -> AsyncIterator[Any]:
    """A worker's own connection, since its BLPOP blocks one."""
    client = connect(redis_url)
    yield client
    await client.aclose()


@asynccontextmanager
async def inbox(redis: Redis, timeout_s: float = 5.0) -> AsyncIterator[Inbox]:
    """A node's inbox, with its loop running."""
    made = Inbox(redis, "node-1", timeout_s)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def question(worker: Any, model: str) -> Question:
    _, text = await worker.blpop([keys.prepare(model)], timeout=5)
    return Question.from_json(text)


async def answer(worker: Any, asked: Question, result: Result) -> None:
    await worker.rpush(keys.inbox(asked.node), Answer(asked.id, result).to_json())


@pytest.mark.parametrize(
    "result", [Prepared((1, 2**31), 512, "abc"), Text("hi"), Refused("invalid", "no")]
)
async def test_an_answer_reaches_who_asked(redis: Redis, worker: Any, result: Result) -> None:
    async with inbox(redis) as node:
        asking = asyncio.create_task(node.ask("m", HELLO))
        asked = await question(worker, "m")
        assert asked == Question(asked.id, "node-1", "m", HELLO)
        await answer(worker, asked, result)
        assert await asking == result


async def test_answers_may_come_in_any_order(redis: Redis, worker: Any) -> None:
    async with inbox(redis) as node:
        asking = [asyncio.create_task(node.ask(model, HELLO)) for model in ("a", "b")]
        first, second = await question(worker, "a"), await question(worker, "b")
        await answer(worker, second, Prepared((2,), 1))
        await answer(worker, first, Prepared((1,), 1))
        assert await asyncio.gather(*asking) == [Prepared((1,), 1), Prepared((2,), 1)]


async def test_an_order_about_a_slot_waits_for_its_worker_alone(redis: Redis, worker: Any) -> None:
    async with inbox(redis, timeout_s=0.01) as node:
        asking = asyncio.create_task(node.ask("m", SlotOrder("w 1", 3, "erase")))
        _, text = await worker.blpop([keys.slots("w 1", "m")], timeout=5)
        await answer(worker, Question.from_json(text), SlotChanged(256))
        assert await asking == SlotChanged(256)


async def test_an_answer_that_cannot_be_read_harms_nobody(redis: Redis, worker: Any) -> None:
    async with inbox(redis) as node:
        asking = asyncio.create_task(node.ask("m", HELLO))
        asked = await question(worker, "m")
        for rubbish in ("x", "{}", '{"id":"other","refused":{}}', "[]"):
            await worker.rpush(keys.inbox("node-1"), rubbish)
        await answer(worker, asked, Prepared((1,), 1))
        assert await asking == Prepared((1,), 1)


async def test_without_an_answer_it_is_a_timeout(redis: Redis) -> None:
    async with inbox(redis, timeout_s=0.05) as node:
        with pytest.raises(TimeoutError):
            await node.ask("m", HELLO)


async def test_a_question_does_not_live_for_ever(redis: Redis, worker: Any) -> None:
    async with inbox(redis) as node:
        asking = asyncio.create_task(node.ask("m", HELLO))
        await eventually(lambda: worker.llen(keys.prepare("m")))
        assert 0 < await worker.ttl(keys.prepare("m")) <= 30
        asking.cancel()
