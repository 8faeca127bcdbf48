"""The log in Redis keeps the contract, and what only Redis can get wrong."""

from __future__ import annotations

from typing import Any

import pytest
from log_contract import LogContract
from log_harness import append, body, claimed, close, keyed, opened, produced
from redis.asyncio import Redis
from redis_harness import RedisHarness

from replay import keys, redis_disk
from replay.log_values import AppendStatus, ClaimStatus, Requeued
from replay.records import State, Token

pytestmark = pytest.mark.anyio


@pytest.fixture
def harness(redis: Redis, redis_url: str) -> RedisHarness:
    return RedisHarness(redis, redis_url)


class TestRedisLog(LogContract):
    """All of the contract."""


async def test_a_script_that_redis_forgot_is_loaded_again(harness: RedisHarness) -> None:
    ref, claim = await produced(harness.log)
    await harness.redis.script_flush()
    assert (await append(harness.log, claim, 0, b"x")).status is AppendStatus.APPENDED
    await harness.redis.script_flush()
    assert (await close(harness.log, claim, 1, b"y")).status is AppendStatus.APPENDED
    assert await body(harness.log, ref) == b"xy"


async def test_a_record_that_lags_behind_its_stream_is_mended(harness: RedisHarness) -> None:
    ref, claim = await produced(harness.log)
    await append(harness.log, claim, 0, b"abcd")
    await harness.redis.hset(keys.record(ref), "end", "2")
    healed = await append(harness.log, claim, 2, b"xx")
    assert (healed.status, healed.end) == (AppendStatus.AT, 4)
    await append(harness.log, claim, 4, b"ef")
    assert await body(harness.log, ref) == b"abcdef"


async def test_the_end_seals_the_stream_against_any_later_entry(harness: RedisHarness) -> None:
    ref, claim = await produced(harness.log)
    await close(harness.log, claim, 0, b"x")
    with pytest.raises(Exception, match="exhausted"):
        await harness.redis.xadd(keys.stream(ref), {"d": b"y"})


async def test_all_keys_of_a_conversation_share_one_hash_tag(harness: RedisHarness) -> None:
    await produced(harness.log, "{a}b::x::m")
    async for key in harness.redis.scan_iter("rc:{*"):
        if b":live:" not in key:
            assert key[key.index(b"{") :].startswith(b"{t:%7Ba%7Db}:")


async def test_no_end_can_be_refused_when_memory_is_full(harness: RedisHarness) -> None:
    ref, claim = await produced(harness.log)
    await append(harness.log, claim, 0, b"said")
    waiting = (await opened(harness.log, "waiting")).ref
    used = (await harness.redis.info("memory"))["used_memory"]
    await harness.redis.config_set("maxmemory", used // 2)
    try:
        (refused,) = await harness.log.append([_append(claim, 4)])
        assert "maxmemory" in str(refused)
        assert (await claimed(harness.log, waiting)).attempt == 1
        stopped = await harness.log.stop("t", "c", epoch=None, keep=True, reason="client")
        assert stopped is not None
        assert stopped.stopped
    finally:
        await harness.redis.config_set("maxmemory", 0)
    assert (await body(harness.log, ref)).startswith(b"said: end")


def _append(claim: object, start: int) -> object:
    from replay.log_values import Append

    return Append(claim, start, b"more")  # type: ignore[arg-type]


async def test_the_disk_is_waited_for_where_something_was_just_erased(
    harness: RedisHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    async def synced(server: Any) -> None:
        waits.append(server)

    monkeypatch.setattr(redis_disk, "synced", synced)
    await harness.redis.config_set("appendonly", "yes")
    await opened(harness.log, "c")
    await harness.log.stop("t", "c", epoch=None, keep=True, reason="client")
    for name in ("c", "unknown"):
        await harness.log.erased("t", name)
    assert waits == []
    await harness.log.stop("t", "c", epoch=None, keep=False, reason="client")
    for _ in range(2):  # whoever asks again is told no less
        await harness.log.erased("t", "c")
    assert len(waits) == 2
    (route,) = await harness.redis.keys("*:route:*")
    await harness.redis.hincrby(route, "gone_until_ms", -5000)
    await harness.log.erased("t", "c")
    assert len(waits) == 2
    await harness.redis.config_set("appendonly", "no")


async def test_whoever_comes_late_brings_nothing_back_that_has_expired(
    harness: RedisHarness,
) -> None:
    log = harness.log
    ref, claim = await produced(log)
    await append(log, claim, 0, b"x")
    look = await log.look(ref.conversation)
    assert look is not None
    await harness.redis.delete(*[key async for key in harness.redis.scan_iter("rc:{t:*")])
    last = {"state": State.FAILED, "reason": "engine"}
    assert (await append(log, claim, 1, b"y")).status is AppendStatus.GONE
    assert (await append(log, claim, 1, b"y", **last)).status is AppendStatus.GONE
    assert await log.renew([claim], 1.0) == await log.settle([claim], 1.0) == [ClaimStatus.GONE]
    assert (await log.claim(ref, worker="w", nonce="n", lease_s=1.0)).status is ClaimStatus.GONE
    assert await log.hand_over(claim) == await log.requeue(look) == Requeued()
    assert await log.redispatch(look) == 0
    assert not await log.reap(look, closing=b"z", despite_lease=True, **last)
    assert await log.pulse(ref, silence_ms=0, comment=b":\n\n") is None
    assert await log.look(ref.conversation) is None
    for epoch in (None, ref.epoch):
        assert await log.stop("t", "c", epoch=epoch, keep=False, reason="client") is None
    await log.erased("t", "c")
    left = [key async for key in harness.redis.scan_iter("rc:{t:*")]
    assert left == [keys.stopped(ref.conversation, "c").encode()]


async def test_an_index_that_lost_its_entries_is_rebuilt(harness: RedisHarness) -> None:
    live, _ = await produced(harness.log, "live")
    ended, claim = await produced(harness.log, "ended")
    await close(harness.log, claim, 0, b"x")
    await harness.redis.delete(keys.live(live.conversation), keys.live(ended.conversation))
    await harness.log.rewatch()
    assert await watched(harness) == [live.conversation.path()]


async def watched(harness: RedisHarness) -> list[str]:
    """What the watch index names."""
    shards = [keys.live_shard(number) for number in range(keys.LIVE_SHARDS)]
    return [path.decode() for shard in shards for path in await harness.redis.zrange(shard, 0, -1)]


@pytest.mark.parametrize("start", [0, 50])
async def test_all_keys_of_a_session_that_is_made_known_again_expire(
    harness: RedisHarness, start: int
) -> None:
    ref, claim = await produced(harness.log, **keyed())
    record = await harness.log.record(ref)
    assert record is not None
    await harness.forget(ref.conversation)
    await harness.log.restore(claim, record, start=start, delivered=None, lease_s=1.0)
    await append(harness.log, claim, start, b"said", tokens=[Token(1)])
    found = [key async for key in harness.redis.scan_iter("rc:{t:*")]
    assert len(found) == len(["record", "stream", "tokens", "route", "conversations", "intent"])
    for key in found:
        assert await harness.redis.pttl(key) > 0, key


async def test_a_keep_alive_above_a_stream_that_is_gone_expires(harness: RedisHarness) -> None:
    ref = (await opened(harness.log)).ref
    await harness.alter(ref, end=50)
    pulse = await harness.log.pulse(ref, silence_ms=0, comment=b":\n\n")
    assert pulse is not None
    assert pulse.end == 53
    assert await harness.redis.pttl(keys.stream(ref)) > 0
