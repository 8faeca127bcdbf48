"""What all tests share: one Redis for the run, emptied for each, and no key without a TTL."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from deploy.local.ports import any_free
from deploy.local.redis_server import answers, find_program
from replay.redis_plane import connect

START_LIMIT_S = 10.0


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """arq knows asyncio alone, so everything runs there."""
    return "asyncio", {}


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis of this test run."""
    folder: Path = tmp_path_factory.mktemp("redis")
    port = any_free("127.0.0.1")
    command = [find_program().path, "--port", str(port), "--dir", str(folder), "--save", ""]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log) as server:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}"
        server.terminate()
        server.wait(START_LIMIT_S)


def _wait_for(port: int) -> None:
    until = time.monotonic() + START_LIMIT_S
    while not answers(port):
        assert time.monotonic() < until, "the Redis of the tests does not start"
        time.sleep(0.01)  # a server that starts tells nobody


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
