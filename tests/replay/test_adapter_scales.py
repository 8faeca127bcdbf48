from __future__ import annotations

import pytest
from redis.asyncio import Redis

from replay import keys
from replay.adapter_scales import UNUSED_TTL_S, RedisAdapterScales
from replay.adapters import Adapter, pairs
from replay.errors import LogUnavailable
from replay.redis_plane import connect

pytestmark = pytest.mark.anyio


async def test_what_was_set_is_read_until_it_is_set_anew(redis: Redis) -> None:
    scales = RedisAdapterScales(redis)
    assert await scales.read("m") == {}
    for given in ({"A": 1.0, "B": 0.5}, {"A": 0.0}):
        await scales.write("m", given)
        assert await scales.read("m") == given
    assert await scales.read("other") == {}


async def test_scales_that_are_used_are_not_forgotten(redis: Redis) -> None:
    scales = RedisAdapterScales(redis)
    await scales.write("m", {"A": 1.0})
    await redis.expire(keys.adapters("m"), 60)
    await scales.read("m")
    assert await redis.ttl(keys.adapters("m")) > UNUSED_TTL_S - 60


async def test_a_redis_that_is_away_is_told() -> None:
    client = connect("redis://127.0.0.1:1")
    scales = RedisAdapterScales(client)
    with pytest.raises(LogUnavailable):
        await scales.read("m")
    with pytest.raises(LogUnavailable):
        await scales.write("m", {})
    await client.aclose()


def test_what_a_newer_version_tells_of_an_adapter_is_left_out() -> None:
    adapter = Adapter("/a", "A", 0.5, "task", "Say: ")
    told = {"path": "/a", "sha256": "A", "scale": 0.5, "task_name": "task"}
    assert Adapter.from_dict({**told, "prompt_prefix": "Say: ", "rank": 4}) == adapter
    assert pairs([[0, 1.0]]) == ((0, 1.0),)
