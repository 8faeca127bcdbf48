"""The queue plane over a real Redis: order by counter, one job an id, JSON that a worker reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.utils import to_unix_ms
from redis.asyncio import Redis

from api.dispatch import ArqQueue, position_of
from replay import keys
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.queue import due_at, job_id

pytestmark = pytest.mark.anyio

MODEL = "org/model:Q4"


def session(number: int) -> SessionRef:
    return SessionRef("default", f"c{number}", MODEL, number)


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[ArqQueue]:
    """The queues of an empty Redis."""
    queue = ArqQueue(redis_url)
    yield queue
    await queue.aclose()


@pytest.mark.parametrize("number", [1, 2, 999, 1_000, 1_001, 123_457, 2**40 + 1])
def test_a_score_is_exactly_its_number(number: int) -> None:
    assert to_unix_ms(due_at(number)) == number


async def test_numbers_rise_from_one(queue: ArqQueue) -> None:
    assert [await queue.next_number() for _ in range(3)] == [1, 2, 3]


async def test_what_waits_is_counted_for_each_model_and_tenant(queue: ArqQueue) -> None:
    assert await queue.depths([MODEL, "other"]) == [0, 0]
    assert await queue.waiting("default", [MODEL, "other"]) == 0
    for number in range(1, 8):
        tenant = "default" if number > 2 else "default2"
        ref = SessionRef(tenant, f"c{number}", MODEL if number != 7 else "other", number)
        await queue.enqueue(ref, dispatch=1, number=number)
    assert await queue.depths([MODEL, "other", "none"]) == [6, 1, 0]
    assert await queue.waiting("default", [MODEL, "other"]) == 5
    assert await queue.waiting("default", [MODEL]) == 4
    assert await queue.waiting("default2", [MODEL, "other"]) == 2
    assert await queue.waiting("efault", [MODEL]) == await queue.waiting("*", [MODEL]) == 0


async def test_a_job_is_the_sessions_path_in_json(queue: ArqQueue, redis: Redis) -> None:
    ref, client = session(5), _client(redis)
    await queue.enqueue(ref, dispatch=1, number=7)
    assert await client.zrange(keys.queue(MODEL), 0, -1, withscores=True) == [
        (job_id(ref, 1).encode(), 7.0)
    ]
    job = json.loads(await client.get("arq:job:" + job_id(ref, 1)))
    assert (job["f"], job["a"]) == ("generate", [ref.path()])


async def test_the_order_is_that_of_the_numbers(queue: ArqQueue) -> None:
    for number in (250, 3, 12):
        await queue.enqueue(session(number), dispatch=1, number=number)
    places = await queue.positions([(session(n), 1) for n in (3, 12, 250, 4)])
    assert places == [0, 1, 2, None]
    assert await queue.positions([]) == []


async def test_enqueueing_again_changes_nothing(queue: ArqQueue, redis: Redis) -> None:
    await queue.enqueue(session(1), dispatch=1, number=1)
    await queue.enqueue(session(1), dispatch=1, number=1)
    assert await _client(redis).zcard(keys.queue(MODEL)) == 1


async def test_a_removed_job_leaves_nothing(queue: ArqQueue, redis: Redis) -> None:
    await queue.enqueue(session(1), dispatch=1, number=1)
    assert await queue.has_job(session(1), dispatch=1)
    await queue.remove(session(1), dispatch=1)
    assert not await queue.has_job(session(1), dispatch=1)
    assert await _client(redis).keys("*") == []


async def test_a_place_is_found_without_the_dispatch_number(queue: ArqQueue) -> None:
    assert await position_of(queue, session(1)) is None
    await queue.enqueue(session(1), dispatch=2, number=1)
    assert await position_of(queue, session(1)) == 0
    await queue.remove(session(1), dispatch=2)


async def test_workers_are_woken_with_the_model(queue: ArqQueue, redis: Redis) -> None:
    async with _client(redis).pubsub() as channel:
        await channel.subscribe(keys.wake())
        await channel.get_message(timeout=5)
        await queue.enqueue(session(1), dispatch=1, number=1)
        message = await channel.get_message(ignore_subscribe_messages=True, timeout=5)
    assert message["data"] == b"org%2Fmodel%3AQ4"


async def test_a_redis_that_is_away_is_one_kind_of_error() -> None:
    queue = ArqQueue("redis://127.0.0.1:1")
    for call in (
        queue.next_number(),
        queue.ping(),
        queue.enqueue(session(1), dispatch=1, number=1),
    ):
        with pytest.raises(LogUnavailable):
            await call
    await queue.aclose()


def _client(redis: Redis) -> Any:
    return redis
