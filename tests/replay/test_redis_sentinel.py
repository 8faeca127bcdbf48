"""The log on the master that sentinels know, and what becomes of connections at a failover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from log_contract import LogContract
from log_harness import append, body, produced
from redis.exceptions import ConnectionError
from redis_harness import RedisHarness

from deploy.local.redis_server import LOOPBACK
from replay import keys, redis_sentinel
from replay.errors import LogUnavailable, RedisUnfit
from replay.log_values import Append, AppendResult, AppendStatus, Claim, ClaimStatus
from replay.redis_log import RedisLog
from replay.redis_plane import connect, connections_made
from replay.redis_policy import check_policies
from replay.redis_sentinel import Sentinels
from replay.redis_url import Place, parse
from replay.subscription import Subscription
from tests.redis_planes import SERVICE, SentinelPlane, ask, in_the_end
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelPlane]:
    with SentinelPlane(tmp_path_factory.mktemp("sentinel")).running() as plane:
        yield plane


@pytest.fixture
def plane(servers: SentinelPlane) -> Iterator[SentinelPlane]:
    """Empty, whoever is the master."""
    servers.wait_whole()
    ask(servers.master(), "FLUSHALL")
    return servers


@pytest.fixture
async def redis(plane: SentinelPlane) -> AsyncIterator[Any]:
    client = connect(plane.url)
    yield client
    await client.aclose()


@pytest.fixture
def harness(redis: Any, plane: SentinelPlane) -> RedisHarness:
    return RedisHarness(redis, plane.url)


class TestRedisLogBehindSentinels(LogContract):
    """All of the contract."""


def place_of(server: RedisServer) -> Place:
    return LOOPBACK, server.port


async def appended(log: RedisLog, claim: Claim, start: int, data: bytes) -> AppendResult:
    """Appends as a producer does: again and again while the log is away, on at its end."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                (result,) = await log.append([Append(claim, start, data)])
            except LogUnavailable:
                result = LogUnavailable("away")
            if not isinstance(result, Exception):
                return result
            await asyncio.sleep(0.02)


async def test_the_master_is_found_whichever_sentinel_is_gone(plane: SentinelPlane) -> None:
    gone = f"{LOOPBACK}:1"
    for places in ([gone, *plane.places], [*plane.places, gone], [gone, gone, plane.places[0]]):
        sentinels = Sentinels(parse(f"redis+sentinel://{','.join(places)}/{SERVICE}"))
        for _ in range(2):
            assert await sentinels.master() == place_of(plane.master())


async def test_sentinels_that_do_not_know_or_are_not_there_are_one_line(
    plane: SentinelPlane,
) -> None:
    for where in (f"{LOOPBACK}:1", f"{LOOPBACK}:1,{LOOPBACK}:2", ",".join(plane.places)):
        client = connect(f"redis+sentinel://{where}/another")
        try:
            with pytest.raises(LogUnavailable, match="no sentinel knows the master of 'another'"):
                await RedisLog(client).ping()
        finally:
            await client.aclose()


async def test_a_sentinel_is_no_plane_itself(plane: SentinelPlane) -> None:
    client = connect(plane.sentinels[0].url)
    try:
        with pytest.raises(RedisUnfit, match=r"is a sentinel: redis\+sentinel://"):
            await check_policies({"A_URL": client})
    finally:
        await client.aclose()


async def test_a_silent_sentinel_is_asked_last_from_then_on(
    plane: SentinelPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_sentinel, "ANSWER_S", 1.0)
    silent, *_ = plane.sentinels
    sentinels, master = Sentinels(parse(plane.url)), plane.master()
    with silent.held():
        assert await sentinels.master() == place_of(master)
        assert sentinels._places[-1] == place_of(silent)


async def test_who_is_no_master_is_not_believed(
    plane: SentinelPlane, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (replica,) = [one for one in plane.servers if one is not plane.master()]

    async def lie(self: Sentinels) -> Place:
        return place_of(replica)

    with monkeypatch.context() as lying:
        lying.setattr(Sentinels, "master", lie)
        with pytest.raises(ConnectionError, match="is no master"):
            await redis.ping()
    assert await redis.ping()


async def test_a_subscription_to_no_master_is_left_for_one_to_the_master(
    plane: SentinelPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    (replica,) = [one for one in plane.servers if one is not plane.master()]
    told = [place_of(replica), place_of(replica)]
    original = Sentinels.master

    async def lie_at_first(self: Sentinels) -> Place:
        return told.pop() if told else await original(self)

    monkeypatch.setattr(Sentinels, "master", lie_at_first)
    subscription = Subscription(plane.url, on_message=lambda _, m: None, on_reset=lambda: None)
    async with subscription.open():
        await subscription.subscribe("news")
        assert told == []
        assert ask(plane.master(), "PUBLISH", "news", "hello") == 1


async def test_what_is_to_last_waits_for_as_many_replicas_as_must_be_there_to_write(
    plane: SentinelPlane, harness: RedisHarness
) -> None:
    master = plane.master()
    (replica,) = [one for one in plane.servers if one is not master]
    _, claim = await produced(harness.log)
    ask(master, "CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        assert await harness.log.settle([claim], 60) == [ClaimStatus.RENEWED]
        with replica.held(), pytest.raises(LogUnavailable, match="replicas are slow"):
            await harness.log.settle([claim], 60)
    finally:
        ask(master, "CONFIG", "SET", "min-replicas-to-write", 0)


async def test_a_connection_asks_again_but_not_for_each_command(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    original = Sentinels.master

    async def counted(self: Sentinels) -> Place:
        nonlocal asked
        asked += 1
        return await original(self)

    monkeypatch.setattr(Sentinels, "master", counted)
    for _ in range(50):
        await redis.get("k")
    assert asked == 1
    monkeypatch.setattr(redis_sentinel, "LOOK_S", 0.0)
    for _ in range(3):
        await redis.get("k")
    assert asked == 4
    assert connections_made(redis) == 1


async def test_silent_sentinels_take_no_connection_away(
    plane: SentinelPlane, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_sentinel, "LOOK_S", 0.0)
    await redis.set("k", "v", ex=60)

    async def silence(self: Sentinels, place: Place) -> Place | None:
        raise OSError("silence")

    monkeypatch.setattr(Sentinels, "_ask", silence)
    assert await redis.get("k") == b"v"


async def test_a_master_that_hung_while_another_was_promoted_is_left(
    plane: SentinelPlane, harness: RedisHarness
) -> None:
    was = plane.master()
    ref, claim = await produced(harness.log)
    await append(harness.log, claim, 0, b"before ")
    assert ask(was, "WAIT", 1, 2000) == 1
    heard: list[bytes] = []
    resets: list[None] = []
    subscription = Subscription(
        plane.url, on_message=lambda _, m: heard.append(m), on_reset=lambda: resets.append(None)
    )
    async with subscription.open():
        await subscription.subscribe("news")
        with was.held():
            await asyncio.to_thread(in_the_end, lambda: plane.leads_another_than(was))
            ask(plane.master(), "SET", "who", "new", "EX", 60)
        # It calls itself the master until a sentinel tells it otherwise; our connections are open.
        assert plane.role(was) == "master"
        assert await harness.redis.get("who") == b"new"
        result = await appended(harness.log, claim, 7, b"after")
        assert (result.status, result.end) == (AppendStatus.APPENDED, 12)
        assert await body(harness.log, ref) == b"before after"
        assert ask(plane.master(), "XLEN", keys.stream(ref)) == 2
        async with asyncio.timeout(LIMIT_S):
            while b"hello" not in heard:
                ask(plane.master(), "PUBLISH", "news", "hello")
                await asyncio.sleep(0.05)
        assert len(resets) >= 2
