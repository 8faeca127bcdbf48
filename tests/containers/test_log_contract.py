"""The log in Redis keeps its contract on the Redis image that compose.yaml runs.

The same suite as tests/replay/test_redis_log.py, whose Redis is a program of this machine; here
only the server behind the fixtures of tests/conftest.py is another one.
"""

import os
from collections.abc import Iterator

import pytest
from log_contract import LogContract
from redis.asyncio import Redis
from redis_harness import RedisHarness
from testcontainers.community.redis import RedisContainer

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def redis_server(engine: None) -> Iterator[str]:
    """The URL of a Redis in a container of its own."""
    with RedisContainer(os.environ.get("REDIS_IMAGE", "redis:7")) as server:
        host, port = server.get_container_host_ip(), server.get_exposed_port(server.port)
        yield f"redis://{host}:{port}"


@pytest.fixture
def harness(redis: Redis, redis_url: str) -> RedisHarness:
    """The adapter under test."""
    return RedisHarness(redis, redis_url)


class TestRedisLogInAContainer(LogContract):
    """All of the contract."""
