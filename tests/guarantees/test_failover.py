"""The master of both planes dies or hangs while workers generate, and its replica takes over."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.protocol.stored import stored
from tests.protocol.wire import events, text_of, until
from tests.redis_planes import SentinelPlane, ask, in_the_end
from tests.redis_server import RedisServer

from .breakable import Breakable, answer_to

SESSIONS = 4
WORDS = "[[tokens=200 rate=40 seed={seed}]]"
LOST_BYTES = 4000
SHORT = "[[tokens=5]]"
LEASE_S = "4"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> SentinelPlane:
    return SentinelPlane(tmp_path_factory.mktemp("failover"))


@pytest.fixture(scope="module")
def replicated(
    plane: SentinelPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Breakable]:
    folder = tmp_path_factory.mktemp("replicated")
    with Breakable(folder, redis=plane, REPLAY_LEASE_S=LEASE_S).running() as cluster:
        yield cluster


@pytest.fixture
def cluster(replicated: Breakable, plane: SentinelPlane) -> Breakable:
    plane.wait_whole()
    return replicated.well()


@contextmanager
def answers_unharmed(cluster: Breakable, name: str) -> Iterator[list[str]]:
    """A block in which sessions run and are read on both nodes; none may notice but by a pause."""
    node, _ = cluster.nodes
    asked = {f"{name}-{seed}": WORDS.format(seed=seed) for seed in range(SESSIONS)}
    for one, words in asked.items():
        cluster.begin(node, one, words)
    with ThreadPoolExecutor(2 * SESSIONS) as readers:
        logs = {
            one: [readers.submit(cluster.followed, at, one) for at in cluster.nodes]
            for one in asked
        }
        yield list(asked)
        for one, words in asked.items():
            here, there = (log.result() for log in logs[one])
            assert here == there
            assert text_of(events(here)) == answer_to(words)
            assert stored(cluster.db, one).fields["attempt"] == "1"


@pytest.mark.guarantee("T8")
@pytest.mark.clause("KEY-3")
def test_a_master_that_hangs_is_left_and_comes_back_as_a_replica(
    cluster: Breakable, plane: SentinelPlane, name: str
) -> None:
    was = plane.master()
    with answers_unharmed(cluster, name) as names, was.held():
        in_the_end(lambda: plane.leads_another_than(was))
        # It goes on as if nothing had been, and is a master in its own eyes.
    in_the_end(lambda: plane.role(was) == "slave")
    new = plane.master()
    assert new is not was
    for one in names:
        key = stored(cluster.db, one).keys.stream
        in_the_end(lambda key=key: entries(was, key) == entries(new, key) != [])


@pytest.mark.guarantee("T8")
@pytest.mark.clause("KEY-3")
def test_a_master_that_dies_is_replaced_and_what_its_replica_lacked_is_appended_again(
    cluster: Breakable, plane: SentinelPlane, name: str
) -> None:
    was = plane.master()
    (replica,) = [one for one in plane.servers if one is not was]
    with answers_unharmed(cluster, name) as names:
        logs = [stored(cluster.db, one).keys.stream for one in names]
        lags(replica, was)
        until(lambda: all(last(was, log) > last(replica, log) + LOST_BYTES for log in logs))
        was.stop()
        in_the_end(lambda: plane.leads_another_than(was))
    node, other = cluster.nodes
    until(lambda: all(at.http.get("/ready").status_code == 200 for at in cluster.nodes))
    assert node.post(f"{name}-new", SHORT).status_code == 200
    assert other.found(f"{name}-new")["is_done"]
    assert other.stop(f"{name}-new").status_code == 204
    until(lambda: node.read(f"{name}-new").status_code == 404)  # 503 while Redis may have forgotten


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
