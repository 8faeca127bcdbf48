"""A Redis that would evict is refused, one that would forget is warned of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from replay import redis_policy
from replay.errors import RedisUnfit
from replay.redis_plane import connect
from replay.redis_policy import Policy, check_policies, policy_of
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio

EVICTING = [
    f"{which}-{order}"
    for which, orders in {"allkeys": "lru lfu random", "volatile": "lru lfu random ttl"}.items()
    for order in orders.split()
]


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Redis]:
    """A server that the test may set as it likes."""
    with RedisServer(tmp_path).running() as server:
        client = connect(server.url)
        yield client
        await client.aclose()


@pytest.mark.guarantee("T9")
async def test_every_policy_that_evicts_is_refused(own: Redis) -> None:
    for eviction in EVICTING:
        await own.config_set("maxmemory-policy", eviction)
        with pytest.raises(RedisUnfit, match=f"of A_URL evicts .*{eviction}.* set .*noeviction"):
            await check_policies({"A_URL": own})
    await own.config_set("maxmemory-policy", "noeviction")
    await check_policies({"A_URL": own})


async def test_what_would_be_forgotten_is_warned_of(
    own: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for changes, warning in (
        ({}, ""),
        ({"appendfsync": "no"}, "appendfsync no"),
        ({"appendonly": "no"}, "appendonly yes"),
    ):
        caplog.clear()
        for name, value in changes.items():
            await own.config_set(name, value)
        await check_policies({"A_URL": own})
        assert [warning in one for one in caplog.messages] == [True] * bool(changes)


async def test_a_server_that_forbids_config_is_asked_by_info(own: Redis) -> None:
    await own.config_set("maxmemory-policy", "allkeys-lru")
    await own.execute_command("ACL", "SETUSER", "default", "-config")
    assert await policy_of(own) == Policy("allkeys-lru", True, "", "standalone")


async def test_a_server_that_is_not_what_its_url_says_is_refused(tmp_path: Path) -> None:
    with RedisServer(tmp_path, cluster_enabled="yes").running() as node:
        for url, refusal in (
            (node.url, r"of A_URL is a node of a Redis Cluster: redis\+cluster://"),
            (node.url.replace("redis:", "redis+cluster:"), ""),
        ):
            client = connect(url)
            try:
                if refusal:
                    with pytest.raises(RedisUnfit, match=refusal):
                        await check_policies({"A_URL": client})
                else:
                    await check_policies({"A_URL": client})
            finally:
                await client.aclose()


async def test_a_server_that_tells_nothing_is_warned_of() -> None:
    silent = Policy(eviction="", has_file=True, fsync="")
    assert silent.refusal() == ""
    assert ["maxmemory-policy" in one for one in silent.warnings()] == [True]


async def test_a_server_that_is_away_is_asked_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_policy, "ASK_AGAIN_S", 0.01)
    caplog.set_level(logging.WARNING)
    server = RedisServer(tmp_path, maxmemory_policy="volatile-ttl")
    client = connect(server.url)
    try:
        checking = asyncio.create_task(check_policies({"A_URL": client}))
        assert not (await asyncio.wait([checking], timeout=0.1))[0]
        with server.running(), pytest.raises(RedisUnfit):
            await checking
    finally:
        await client.aclose()
