"""What all tests share: one Redis for the run, emptied for each, no key without a TTL."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from deploy.bootstrap import MODEL, models_dir
from replay.redis_plane import connect
from tests.redis_server import RedisServer

# How long an example takes tells of the machine, not of the code; and what was found today is found
# tomorrow. `--hypothesis-profile=dice` looks elsewhere each time.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dice", **PATIENT)
settings.register_profile("ours", derandomize=True, **PATIENT)
settings.load_profile("ours")


def pytest_sessionstart() -> None:
    """Hypothesis draws constants of the loaded modules too: of others where a test runs alone."""
    if settings.get_current_profile_name() == "ours":
        providers._get_local_constants = providers.Constants


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """arq knows asyncio alone, so everything runs there."""
    return "asyncio", {}


@pytest.fixture(scope="session")
def model_file() -> Path:
    """The default model; without it the test is skipped, or fails where it must be there."""
    file = models_dir() / f"{MODEL}.gguf"
    if not file.is_file():
        reason = f"no model at {file} (`make setup` obtains it)"
        if os.environ.get("REPLAY_REQUIRE_MODEL") == "1":
            pytest.fail(f"REPLAY_REQUIRE_MODEL=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    return file


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis of this test run."""
    with RedisServer(tmp_path_factory.mktemp("redis"), appendonly="no").running() as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """An empty Redis; after the test none of its keys may live for ever."""
    with SyncRedis.from_url(redis_server) as client:
        client.flushall()
        yield redis_server
        immortal = [key for key in client.scan_iter() if client.ttl(key) == -1]
        client.flushall()
    assert immortal == [], "keys without a TTL"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the test's Redis."""
    client = connect(redis_url)
    yield client
    await client.aclose()
