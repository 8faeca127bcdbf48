"""A settled log becomes small, stays the same, and is left alone where that would be wrong."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from log_harness import append, body, close, opened, produced
from redis.asyncio import Redis

from replay import keys
from replay.blocks import BLOCK_BYTES_MAX, Block
from replay.compaction import Compactor
from replay.errors import LogUnavailable, SessionNotFound
from replay.identity import SessionRef
from replay.inspection import Inspector
from replay.limits import PAGE_BYTES_MAX
from replay.log_values import Compactable
from replay.records import Token
from replay.redis_log import RedisLog

pytestmark = pytest.mark.anyio

EVENTS = 1000


def compactor_of(log: Any) -> Compactor:
    """One that takes what has just ended for settled."""
    return Compactor(log, settled_s=0.0)


def event(number: int) -> bytes:
    """A frame as large as an answer's."""
    return b'data: {"created":1790000000,"id":"chatcmpl-%s","t":"%d"}\n\n' % (b"x" * 200, number)


async def filled(log: Any, events: int = EVENTS, name: str = "c") -> tuple[SessionRef, bytes]:
    """An ended session of so many entries, and its bytes."""
    ref, claim = await produced(log, name)
    said = b""
    for number in range(events):
        data = event(number)
        await append(log, claim, len(said), data, first_token=number, tokens=[Token(number)])
        said += data
    await close(log, claim, len(said))
    return ref, said


async def memory(redis: Any, ref: SessionRef) -> int:
    """What all keys of the session take in Redis."""
    kinds = (keys.record(ref), keys.stream(ref), keys.tokens(ref))
    return sum([await redis.memory_usage(key, samples=0) or 0 for key in kinds])


async def test_a_log_of_many_entries_becomes_few_blocks_of_a_tenth(redis: Redis) -> None:
    log = RedisLog(redis)
    ref, said = await filled(log)
    before = [await redis.pexpiretime(key) for key in (keys.stream(ref), keys.record(ref))]
    took = await memory(redis, ref)
    await compactor_of(log).compact(ref.conversation)
    page = await log.read(ref, 0)
    sizes = [chunk.end - chunk.start for chunk in page.chunks]
    assert all(isinstance(chunk, Block) for chunk in page.chunks) and page.end is not None
    assert all(BLOCK_BYTES_MAX - 300 < size <= BLOCK_BYTES_MAX for size in sizes[:-1])
    assert await memory(redis, ref) < min(len(said) / 10, took / 10, 30 * EVENTS)
    assert not await redis.exists(keys.tokens(ref))
    after = [await redis.pexpiretime(key) for key in (keys.stream(ref), keys.record(ref))]
    assert after == before and min(after) > 0


async def test_every_offset_reads_as_before(redis: Redis) -> None:
    log = RedisLog(redis)
    ref, said = await filled(log, 700)
    await compactor_of(log).compact(ref.conversation)
    for offset in [*range(300), *random.Random(7).sample(range(len(said)), 100), len(said)]:
        assert await body(log, ref, offset) == said[offset:]


async def test_an_operator_sees_the_same_session(redis: Redis) -> None:
    log, inspector = RedisLog(redis), Inspector(redis)
    ref, _ = await filled(log)
    before = await log.resolve("t", "c", None)
    was = await inspector.detail(before)
    await compactor_of(log).compact(ref.conversation)
    record = await log.resolve("t", "c", None)
    assert replace(record, packed_bytes=0, prompt_token_count=0) == before
    now = await inspector.detail(record)
    assert (now.first_offset, now.request_bytes) == (was.first_offset, was.request_bytes)
    assert now.prompt_token_count == was.prompt_token_count == 3


@pytest.mark.parametrize(
    "said", [random.Random(7).randbytes(100_000), event(1)], ids=["noise", "short"]
)
async def test_what_would_not_shrink_stays_as_it_is(redis: Redis, said: bytes) -> None:
    log = RedisLog(redis)
    ref, claim = await produced(log)
    await close(log, claim, 0, said)
    await compactor_of(log).compact(ref.conversation)
    assert (await log.record(ref)).packed_bytes == 0
    assert await body(log, ref) == said


class Meddled(RedisLog):
    """A log that something happens to before each page, or before the compacting call."""

    def __init__(self, redis: Redis, *, before: str) -> None:
        super().__init__(redis)
        self._before = before
        self.meddle: Any = None

    async def read(self, ref: SessionRef, offset: int) -> Any:
        if self._before == "read" and self.meddle:
            await self.meddle()
        return await super().read(ref, offset)

    async def compact(self, seen: Compactable, blocks: Any) -> bool:
        if self._before == "compact":
            await self.meddle()
        return await super().compact(seen, blocks)


class Interrupted:
    """A client in whose pipelines something happens after the first command."""

    def __init__(self, redis: Any, meddle: Any) -> None:
        self._redis = redis
        self._meddle = meddle
        self._commands: list[tuple[Any, ...]] = []

    def pipeline(self, **_: Any) -> Interrupted:
        return self

    async def __aenter__(self) -> Interrupted:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands.clear()

    def execute_command(self, *command: Any) -> None:
        self._commands.append(command)

    def hmget(self, *words: Any) -> None:
        self._commands.append(("HMGET", *words))

    async def execute(self) -> list[Any]:
        first, *others = self._commands
        replies = [await self._redis.execute_command(*first)]
        await self._meddle()
        return replies + [await self._redis.execute_command(*one) for one in others]


async def test_a_page_that_a_compaction_cuts_in_two_has_no_gap(redis: Redis) -> None:
    log = RedisLog(redis)
    ref, said = await filled(log, 2 * PAGE_BYTES_MAX // len(event(0)))
    cut = RedisLog(redis)
    cut._redis = Interrupted(redis, lambda: compactor_of(log).compact(ref.conversation))
    page = await cut.read(ref, 7)
    assert (await log.record(ref)).packed_bytes > 0 and page.more
    found = b"".join(chunk.data for chunk in page.chunks)
    assert page.chunks[-1].end - 7 == len(found)
    assert found + await body(log, ref, page.chunks[-1].end) == said[7:]


@pytest.mark.parametrize("before", ["read", "compact"])
async def test_what_is_erased_in_the_middle_of_it_stays_erased(redis: Redis, before: str) -> None:
    log = Meddled(redis, before=before)
    ref, said = await filled(log, 600)

    async def erase() -> None:
        log.meddle = _nothing
        await log.stop("t", "c", epoch=None, keep=False, reason="client")
        assert await redis.pttl(keys.stream(ref)) <= 30_000

    log.meddle = erase
    await compactor_of(log).compact(ref.conversation)
    assert 0 < await redis.pttl(keys.stream(ref)) <= 30_000
    assert (await log.record(ref)).packed_bytes == 0
    assert await body(log, ref) == said  # for whoever reads it just now
    with pytest.raises(SessionNotFound):
        await log.resolve("t", "c", None)


@pytest.mark.parametrize("before", ["read", "compact"])
async def test_what_is_gone_in_the_middle_of_it_is_not_made_again(
    redis: Redis, before: str
) -> None:
    log = Meddled(redis, before=before)
    ref, _ = await filled(log, 600)
    log.meddle = redis.flushall
    await compactor_of(log).compact(ref.conversation)
    assert await redis.keys() == []


async def test_many_compactors_at_once_do_it_once(redis: Redis) -> None:
    log = RedisLog(redis)
    ref, said = await filled(log, 600)
    other = await filled(log, 600, name="d")
    compactors = [compactor_of(RedisLog(redis)) for _ in range(4)]
    for conversation in (ref.conversation, other[0].conversation):
        await asyncio.gather(*(one.compact(conversation) for one in compactors))
    assert await body(log, ref) == said
    assert await body(log, other[0]) == other[1]


async def test_a_live_session_is_left_alone(redis: Redis) -> None:
    log = RedisLog(redis)
    ref, _ = await filled(log)
    live = (await opened(log)).ref
    await compactor_of(log).compact(ref.conversation)
    assert (await log.record(ref)).packed_bytes > 0
    assert (await log.record(live)).prompt != ()


class Away(RedisLog):
    """A log that is away at its first question."""

    asked = 0

    async def compactable(self, *args: Any, **more: Any) -> Any:
        self.asked += 1
        if self.asked == 1:
            raise LogUnavailable("compactable")
        return await super().compactable(*args, **more)


async def test_what_fails_is_left_in_the_watch(redis: Redis) -> None:
    log = Away(redis)
    ref, _ = await filled(log, 100)
    await log.watch(ref.conversation, 0)
    (due,) = await log.due(10)
    compactor = compactor_of(log)
    task = asyncio.create_task(compactor.run())
    async with asyncio.timeout(5):
        compactor.take(due)
        while not log.asked:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        assert await log.due(10) == [due]
        compactor.take(due)
        while await log.due(10):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    assert (await log.record(ref)).packed_bytes > 0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _nothing() -> None:
    return None
