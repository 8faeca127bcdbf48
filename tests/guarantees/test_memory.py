"""A Redis whose memory is full: what would evict is refused, what is full refuses and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from redis import Redis

from deploy.local.ports import any_free
from replay.cluster import HEARTBEAT_S, HEARTBEAT_TTL_S
from tests.protocol.wire import WAIT_S, Node, end_comment, error_of, events, text_of, until
from tests.redis_server import RedisServer

from .breakable import OURS, Breakable, answer_to

PROGRAMS = ("api", "inference_worker")
ENDLESS = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=20 rate=0 seed=5]]"


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


@contextmanager
def filled(db: Redis) -> Iterator[None]:
    """A block in which memory is full."""
    db.config_set("maxmemory", db.info("memory")["used_memory"] // 2)
    try:
        yield
    finally:
        db.config_set("maxmemory", 0)


def outlast_records(db: Redis) -> None:
    """Returns when every process must have beaten in the block to be known still."""

    def times() -> set[tuple[bytes, float]]:
        indexes = ("rc:workers", "rc:nodes")
        return {one for index in indexes for one in db.zrange(index, 0, -1, withscores=True)}

    for _ in range(round(HEARTBEAT_TTL_S / HEARTBEAT_S) + 1):
        last = times()
        until(lambda last=last: not last & times())


def is_refused(node: Node, name: str) -> bool:
    """Whether a POST is told to come again later."""
    response = node.post(name, SHORT)
    assert response.status_code == 503, response.text
    return error_of(response)["reason"] == "redis" and int(response.headers["retry-after"]) > 0


@pytest.mark.guarantee("T9")
@pytest.mark.clause("LOG-9")
def test_a_full_redis_refuses_tells_and_forgets_nothing(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str
) -> None:
    opened = exchanges.enter_context
    cluster = cluster_of(workers=1, REPLAY_SLOTS="2")
    (node, other), db = cluster.nodes, cluster.db
    kept = node.post(name, SHORT, stream=True).content
    found = node.found(name)
    live = [f"{name}-live-{number}" for number in range(2)]
    posts = [opened(node.posting(one, ENDLESS)) for one in live]
    readers = [opened(other.reading(one)) for one in live if node.reaches(one, "running")]
    queued = [f"{name}-queued-{number}" for number in range(2)]
    waiting = [opened(node.posting(one, SHORT, sse_ping_interval=1)) for one in queued]
    plain = opened(node.posting(None, SHORT))
    until(lambda: db.zcard(f"rc:queue:{cluster.model}") == 3)
    keys = set(db.keys("rc:{*"))

    with filled(db):
        for post, reader in zip(posts, readers, strict=True):
            log = post.whole()
            assert log.endswith(end_comment("failed", "storage")) and log.count(b'"error"') == 1
            assert reader.whole() == log
        for one in live:
            assert (other.found(one)["state"], other.found(one)["reason"]) == ("failed", "storage")
        assert is_refused(node, name) and is_refused(other, f"{name}-new")
        assert other.found(name) == found
        for offset in (0, 1, len(kept) // 2, len(kept)):
            assert other.read(name, from_=offset).content == kept[offset:]
        outlast_records(db)
        assert [one["id"] for one in other.models()] == [cluster.model]
        assert other.stop(queued[0], keep="true").status_code == 204
        assert other.found(queued[0])["state"] == "stopped"
        assert other.found(queued[1])["state"] == "queued"
    assert keys <= set(db.keys("rc:{*"))
    assert db.info("stats")["evicted_keys"] == 0
    for post in (waiting[1], plain):
        assert text_of(events(post.whole())) == answer_to(SHORT)
    assert node.post(name, SHORT).status_code == 200
    assert other.found(name)["epoch"] > found["epoch"]
