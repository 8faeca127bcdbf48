"""A Redis whose memory is full: what would evict is refused, what is full refuses and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.ports import any_free
from tests.protocol.wire import WAIT_S, until
from tests.redis_server import RedisServer

from .breakable import OURS

PROGRAMS = ("api", "inference_worker")


@contextmanager
def started(program: str, redis: RedisServer, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node or worker of its own."""
    settings = {
        **OURS,
        "REPLAY_REDIS_URL": redis.url,
        "REPLAY_PORT": str(any_free("127.0.0.1")),
        "REPLAY_ENGINE": "scripted",
        "REPLAY_MODELS": "scripted",
    }
    environment = {**os.environ, **settings}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", program], env=environment, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.guarantee("T9")
@pytest.mark.clause("KEY-4")
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_process_serves_on_a_redis_that_evicts(program: str, tmp_path: Path) -> None:
    redis, log = RedisServer(tmp_path, maxmemory_policy="volatile-lru"), tmp_path / "output"
    with redis.running(), started(program, redis, log) as process:
        assert process.wait(WAIT_S) == 1
    last = log.read_text().splitlines()[-1]
    assert "the Redis of REPLAY_REDIS_URL evicts" in last
    assert "maxmemory-policy volatile-lru" in last and "noeviction" in last


@pytest.mark.guarantee("T9")
@pytest.mark.clause("KEY-4")
@pytest.mark.parametrize("program", PROGRAMS)
def test_one_that_evicts_is_refused_when_it_first_answers(program: str, tmp_path: Path) -> None:
    redis, log = RedisServer(tmp_path, maxmemory_policy="allkeys-lfu"), tmp_path / "output"
    with started(program, redis, log) as process:
        until(lambda: "the sweep waits" in log.read_text())
        with redis.running():
            assert process.wait(WAIT_S) == 1
    assert "evicts keys" in log.read_text().splitlines()[-1]
