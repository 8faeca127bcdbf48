"""What the other tests here stand on: processes that break and come back."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeout

from tests.protocol.wire import events, text_of
from tests.redis_server import RedisServer

from .breakable import Breakable, answer_to

WORDS = "[[tokens=60 rate=40 seed=3]]"


def test_a_cut_file_loses_its_end_alone(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, appendfsync="always")
    with server.running(), Redis.from_url(server.url) as db:
        for number in range(3):
            db.set(f"key-{number}", b"x" * 40_000)
        server.restart()
        assert db.dbsize() == 3
        server.restart(lost_bytes=64 * 1024)
        assert db.keys() == [b"key-0"]


def test_a_held_server_is_silent_and_then_goes_on(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    hasty = Redis.from_url(server.url, socket_timeout=0.1)
    with server.running(), server.client() as db, hasty:
        with server.held(), pytest.raises(RedisTimeout):
            hasty.ping()
        assert db.ping()


def test_the_answer_is_known_beforehand(cluster: Breakable, name: str) -> None:
    log = cluster.nodes[0].post(name, WORDS, stream=True).content
    assert text_of(events(log)) == answer_to(WORDS)


def test_what_is_killed_is_well_again(cluster: Breakable) -> None:
    killed = [cluster.kill("api-1"), cluster.kill("worker-2")]
    assert not set(killed) & set(cluster.well().cluster.pids.values())
