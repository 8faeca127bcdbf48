"""The log on a Redis Cluster of three masters, and what only a cluster can get wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from log_contract import LogContract
from log_harness import append, claimed, opened, produced
from redis.exceptions import ConnectionError, ResponseError
from redis_harness import RedisHarness

from replay import keys
from replay.cluster import Directory, NodeRecord
from replay.errors import LogUnavailable
from replay.identity import Conversation
from replay.inspection import Inspector, Query
from replay.log_values import Append, AppendStatus, ClaimStatus
from replay.redis_cluster import KEYLESS, RedisCluster, key_of, moved_to, owners
from replay.redis_log import RedisLog
from replay.redis_plane import connect, connections_made
from replay.subscription import Subscription
from tests.redis_planes import ClusterPlane, ask, in_the_end

pytestmark = pytest.mark.anyio

CONVERSATIONS = [f"c{number}" for number in range(24)]
"""Enough for each master to have some."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterPlane]:
    with ClusterPlane(tmp_path_factory.mktemp("cluster")).running() as plane:
        yield plane


@pytest.fixture
def plane(servers: ClusterPlane) -> Iterator[ClusterPlane]:
    """Empty; after the test none of its keys may live for ever."""
    servers.wait_whole()
    servers.flush()
    yield servers
    servers.wait_whole()
    assert servers.immortal() == []


@pytest.fixture
async def redis(plane: ClusterPlane) -> AsyncIterator[RedisCluster]:
    client = connect(plane.url)
    assert isinstance(client, RedisCluster)
    yield client
    await client.aclose()


@pytest.fixture
def harness(redis: RedisCluster, plane: ClusterPlane) -> RedisHarness:
    return RedisHarness(redis, plane.url)


class TestRedisLogOnACluster(LogContract):
    """All of the contract."""


def test_the_key_of_a_command_decides_where_it_goes() -> None:
    assert key_of(("GET", "k")) == b"k"
    assert key_of(("EVALSHA", "sha", 2, "k", "l", "m")) == b"k"
    assert key_of(("EVALSHA", "sha", 0, "m")) is None
    assert key_of(("EVAL", "text", 1, b"k")) == b"k"
    assert all(key_of((name,)) is None for name in KEYLESS)


def test_who_owns_a_slot() -> None:
    found = owners([[0, 1, [b"a", 1, b"id"], [b"r", 9, b"id"]], [3, 3, [b"", 2]]], ("asked", 7))
    assert found[:5] == [("a", 1), ("a", 1), None, ("asked", 2), None]


def test_where_we_are_sent() -> None:
    assert moved_to(ResponseError("MOVED 7629 127.0.0.1:45201")) == ("127.0.0.1", 45201)
    assert moved_to(ResponseError("MOVED 1 ::1:7")) == ("::1", 7)
    assert moved_to(ResponseError("ASK 7629 127.0.0.1:45201")) is None
    assert moved_to(b"MOVED 1 a:1") is None


async def test_what_goes_together_comes_back_in_its_order_whoever_has_it(
    redis: RedisCluster, plane: ClusterPlane
) -> None:
    assert len({plane.owner(name) for name in CONVERSATIONS}) == 3
    async with redis.pipeline() as pipeline:
        for name in CONVERSATIONS:
            pipeline.set(name, name, ex=60)
            pipeline.get(name)
        told = await pipeline.execute()
    assert told == [word for name in CONVERSATIONS for word in (True, name.encode())]


async def test_one_error_stands_in_its_place_or_is_raised(redis: RedisCluster) -> None:
    async with redis.pipeline() as pipeline:
        for name in CONVERSATIONS:
            pipeline.set(name, "x", ex=60)
        pipeline.incr(CONVERSATIONS[3])
        told = await pipeline.execute(raise_on_error=False)
        assert told[:-1] == [True] * len(CONVERSATIONS)
        assert isinstance(told[-1], ResponseError)
        with pytest.raises(ResponseError):
            await pipeline.execute()


async def test_the_clock_of_a_pipeline_is_the_one_of_its_key(
    redis: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[Any, list[str]]] = []
    original = RedisCluster._sent

    async def noted(self: RedisCluster, place: Any, commands: Any) -> Any:
        sent.append((place, [args[0] for args, _ in commands]))
        return await original(self, place, commands)

    monkeypatch.setattr(RedisCluster, "_sent", noted)
    for name in CONVERSATIONS:
        async with redis.pipeline() as pipeline:
            pipeline.exists(name)
            pipeline.time()
            await pipeline.execute()
    assert [names for _, names in sent] == [["EXISTS", "TIME"]] * len(CONVERSATIONS)
    assert len({place for place, _ in sent}) == 3


async def test_an_old_map_is_healed_by_whom_it_sends_us_to(
    redis: RedisCluster, plane: ClusterPlane
) -> None:
    await redis.set("k", "v", ex=60)
    owner = plane.owner("k")
    wrong = next(one for one in plane.servers if one is not owner)
    redis._owners = [("127.0.0.1", wrong.port)] * len(redis._owners)
    assert await redis.get("k") == b"v"
    async with redis.pipeline() as pipeline:
        for name in CONVERSATIONS:
            pipeline.exists(name)
        assert await pipeline.execute() == [0] * len(CONVERSATIONS)


async def test_who_never_agrees_is_an_error_and_no_endless_walk(
    redis: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def always_elsewhere(self: Any, place: Any, commands: Any) -> list[Any]:
        return [ResponseError("MOVED 1 127.0.0.1:1") for _ in commands]

    monkeypatch.setattr(RedisCluster, "_sent", always_elsewhere)
    with pytest.raises(ResponseError, match="MOVED"):
        await redis.get("k")


async def test_no_node_is_our_error(plane: ClusterPlane) -> None:
    client = connect("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    try:
        with pytest.raises(ConnectionError, match="no node"):
            await client.execute_command("GET", "k")
        with pytest.raises(LogUnavailable):
            await RedisLog(client).ping()
        with pytest.raises(LogUnavailable):
            await RedisLog(client).lookup("t", CONVERSATIONS)
    finally:
        await client.aclose()


async def test_scripts_are_loaded_where_they_are_missing(
    harness: RedisHarness, plane: ClusterPlane
) -> None:
    sessions = [await produced(harness.log, name) for name in CONVERSATIONS]
    ask(plane.servers[1], "SCRIPT FLUSH")
    results = await harness.log.append([Append(claim, 0, b"abc") for _, claim in sessions])
    assert {result.status for result in results} == {AppendStatus.APPENDED}


async def test_sessions_of_other_masters_go_on_while_one_is_away(
    harness: RedisHarness, plane: ClusterPlane
) -> None:
    sessions = [await produced(harness.log, name) for name in CONVERSATIONS]
    away = plane.owner(keys.record(sessions[0][0]))
    away.stop()
    try:
        results = await harness.log.append([Append(claim, 0, b"abc") for _, claim in sessions])
    finally:
        away.start()
    plane.wait_whole()
    for (ref, claim), result in zip(sessions, results, strict=True):
        is_lost = isinstance(result, LogUnavailable)
        assert is_lost == (plane.owner(keys.record(ref)) is away)
        at = 0 if is_lost else 3
        assert (await append(harness.log, claim, at, b"d")).end == at + 1


async def test_a_break_with_any_master_is_counted(
    harness: RedisHarness, plane: ClusterPlane
) -> None:
    async def look_everywhere() -> int:
        for name in CONVERSATIONS:
            await harness.log.look(Conversation("t", name))
        return connections_made(harness.redis)

    number = await look_everywhere()
    assert number == await look_everywhere()
    for server in plane.servers:
        ask(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.01)  # the news travels
        assert number < (number := await look_everywhere())


async def test_the_cluster_says_when_it_is_down(redis: RedisCluster, plane: ClusterPlane) -> None:
    log = RedisLog(redis)
    await log.ping()
    plane.servers[0].stop()
    try:
        in_the_end(lambda: ask(plane.servers[1], "CLUSTER INFO")["cluster_state"] == "fail")
        in_the_end(lambda: ask(plane.servers[2], "CLUSTER INFO")["cluster_state"] == "fail")
        with pytest.raises(LogUnavailable):
            await log.ping()
    finally:
        plane.servers[0].start()
    plane.wait_whole()
    await log.ping()


async def test_a_subscription_moves_on_to_another_node(plane: ClusterPlane) -> None:
    heard: list[bytes] = []
    resets: list[None] = []
    subscription = Subscription(
        plane.url, on_message=lambda _, m: heard.append(m), on_reset=lambda: resets.append(None)
    )
    first, *others = plane.servers
    async with subscription.open():
        await subscription.subscribe("news")
        for server in plane.servers:  # each is heard, whichever node it is that we are at
            ask(server, "PUBLISH", "news", str(server.port))
        await all_of(heard, {str(server.port).encode() for server in plane.servers})
        before = len(resets)
        with first.out():
            await asyncio.to_thread(in_the_end, lambda: len(resets) > before)
            for server in others:
                ask(server, "PUBLISH", "news", f"still {server.port}")
            await all_of(heard, {f"still {server.port}".encode() for server in others})


async def all_of(heard: list[bytes], messages: set[bytes]) -> None:
    """Returns once all of them were heard."""
    await asyncio.to_thread(in_the_end, lambda: messages <= set(heard))


async def test_members_and_sessions_are_found_on_all_masters(
    harness: RedisHarness, redis: RedisCluster, plane: ClusterPlane
) -> None:
    directory = Directory(redis)
    names = [f"n{number}" for number in range(12)]
    for name in names:
        await directory.beat_node(NodeRecord(name, "host", 1, 0, "build"))
    assert sorted(node.id for node in await directory.nodes()) == sorted(names)
    for name in CONVERSATIONS:
        await opened(harness.log, name)
    found = await Inspector(redis).sessions(Query(most=100))
    assert found.is_whole
    assert {one.conversation for one in found.sessions} == set(CONVERSATIONS)
    detail = await Inspector(redis).detail(found.sessions[0])
    assert detail.ttl_ms > 0


async def test_takeovers_on_all_masters_are_settled_each_on_its_own(harness: RedisHarness) -> None:
    claims = [
        await claimed(harness.log, (await opened(harness.log, name)).ref) for name in CONVERSATIONS
    ]
    async with asyncio.timeout(30):
        settled = await harness.log.settle(claims, 60)
    assert settled == [ClaimStatus.RENEWED] * len(claims)


async def test_a_cancelled_flush_leaves_no_reply_for_another(redis: RedisCluster) -> None:
    for name in CONVERSATIONS:
        await redis.set(name, name, ex=60)

    async def ask_forever() -> None:
        while True:
            async with redis.pipeline() as pipeline:
                for name in CONVERSATIONS:
                    pipeline.get(name)
                assert await pipeline.execute() == [name.encode() for name in CONVERSATIONS]

    stays = asyncio.create_task(ask_forever())
    for _ in range(20):
        tasks = [asyncio.create_task(ask_forever()) for _ in range(5)]
        await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        done, left = await asyncio.wait(tasks, timeout=30)
        assert not left
        assert all(task.cancelled() for task in done)
    assert not stays.done()
    stays.cancel()
    await asyncio.wait([stays])
