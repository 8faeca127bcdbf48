"""The master of both planes dies or hangs while workers generate, and its replica takes over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.protocol.stored import stored
from tests.protocol.wire import LOOK_S, Cut, Node, events, text_of, until
from tests.redis_planes import SentinelPlane, ask, in_the_end
from tests.redis_server import RedisServer

from .breakable import FOLLOW_LIMIT_S, Breakable, answer_to

SESSIONS = 4
WORDS = "[[tokens=200 rate=40 seed={seed}]]"
LOST_BYTES = 4000
LEASE_S = "4"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> SentinelPlane:
    return SentinelPlane(tmp_path_factory.mktemp("failover"))


@pytest.fixture(scope="module")
def replicated(
    plane: SentinelPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Breakable]:
    folder = tmp_path_factory.mktemp("replicated")
    with Breakable(
        folder, redis=plane, REPLAY_LEASE_S=LEASE_S, REPLAY_SLOTS="2"
    ).running() as cluster:
        yield cluster


@pytest.fixture
def cluster(replicated: Breakable, plane: SentinelPlane) -> Breakable:
    plane.wait_whole()
    return replicated.well()


@dataclass(frozen=True)
class Read:
    """What a reader got, and the error that it was told instead of the rest."""

    data: bytes
    error: dict[str, Any] = field(default_factory=dict)


def read(node: Node, name: str) -> Read:
    """Reads to the end, going on wherever it is cut; or until it is told that it cannot."""
    data = b""
    last_s = time.monotonic() + FOLLOW_LIMIT_S
    while time.monotonic() < last_s:
        with node.reading(name, from_=len(data)) as reader:
            if reader.status == 200:
                with suppress(Cut):
                    return Read(data + reader.whole())
                data += reader.data
            elif reader.status != 503:
                return Read(data, reader.error())
        time.sleep(LOOK_S)  # as a client does
    raise AssertionError(f"no end within {FOLLOW_LIMIT_S} s")


@contextmanager
def followed(cluster: Breakable, name: str) -> Iterator[dict[str, list[Future[Read]]]]:
    """A block in which sessions run, and each is read on both nodes."""
    asked = {f"{name}-{seed}": WORDS.format(seed=seed) for seed in range(SESSIONS)}
    for one, words in asked.items():
        cluster.begin(cluster.nodes[0], one, words)
    with ThreadPoolExecutor(2 * SESSIONS) as readers:
        yield {one: [readers.submit(read, node, one) for node in cluster.nodes] for one in asked}
    for one, words in asked.items():
        log = cluster.nodes[1].read(one).content
        assert text_of(events(log)) == answer_to(words)


@pytest.mark.guarantee("T8")
@pytest.mark.clause("KEY-3")
def test_a_master_that_hangs_is_left_and_comes_back_as_a_replica(
    cluster: Breakable, plane: SentinelPlane, name: str
) -> None:
    was = plane.master()
    with followed(cluster, name) as reads, was.held():
        in_the_end(lambda: plane.leads_another_than(was))
        # It goes on as if nothing had been, and is a master in its own eyes.
    for one, (here, there) in reads.items():
        assert here.result() == there.result() == Read(cluster.nodes[0].read(one).content)
        assert stored(cluster.db, one).fields["attempt"] == "1"
    in_the_end(lambda: plane.role(was) == "slave")
    new = plane.master()
    assert new is not was
    for one in reads:
        key = stored(cluster.db, one).keys.stream
        in_the_end(lambda key=key: entries(was, key) == entries(new, key) != [])


@pytest.mark.guarantee("T8")
@pytest.mark.guarantee("T40")
@pytest.mark.clause("KEY-3")
def test_a_master_dies_with_a_worker_and_its_replica_lacks_the_last_bytes(
    cluster: Breakable, plane: SentinelPlane, name: str
) -> None:
    """Who lives appends again what is lacking; where nobody can, readers are told."""
    was = plane.master()
    (replica,) = [one for one in plane.servers if one is not was]
    with followed(cluster, name) as reads:
        workers = {one: stored(cluster.db, one).fields["worker"] for one in reads}
        logs = [stored(cluster.db, one).keys.stream for one in reads]
        lags(replica, was)
        until(lambda: all(last(was, log) > last(replica, log) + LOST_BYTES for log in logs))
        cluster.cluster.kill("worker-1")
        was.stop()
        in_the_end(lambda: plane.leads_another_than(was))
        for one in reads:
            cluster.nodes[0].reaches(one, "completed")
    assert sorted(workers.values()) == ["worker-1"] * 2 + ["worker-2"] * 2
    for one, both in reads.items():
        log = cluster.nodes[0].read(one).content
        is_orphan = workers[one] == "worker-1"
        assert stored(cluster.db, one).takeovers == is_orphan
        for got in (reader.result() for reader in both):
            if is_orphan:
                assert got.error["reason"] == "forgotten"
                kept: int = got.error["size"]
                assert got.data[:kept] == log[:kept] and len(got.data) > kept
            else:
                assert got == Read(log)
    for one in reads:
        assert cluster.nodes[1].stop(one).status_code == 204
        until(lambda one=one: cluster.nodes[0].read(one).status_code == 404)


def lags(replica: RedisServer, master: RedisServer) -> None:
    """From now on the replica hears nothing of its master."""
    ask(replica, "CONFIG", "SET", "masterauth", "no password")
    ask(master, "CLIENT", "KILL", "TYPE", "replica")


def last(server: RedisServer, log: str) -> int:
    """The offset of the last byte that a server has of a log."""
    found = ask(server, "XREVRANGE", log, "+", "-", "COUNT", 1)
    return int(found[0][0].split(b"-")[0]) if found else 0


def entries(server: RedisServer, key: str) -> Any:
    """What a server has of a stream."""
    return ask(server, "XRANGE", key, "-", "+")
