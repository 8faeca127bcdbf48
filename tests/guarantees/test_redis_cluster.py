"""The logs on a Redis Cluster of three masters, the queues on a Redis of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.protocol.stored import Keys, stored
from tests.protocol.wire import end_comment, events, text_of
from tests.redis_planes import ClusterPlane, ask, in_the_end
from tests.redis_server import RedisServer

from .breakable import Breakable, answer_to

WORDS = "[[tokens={tokens} rate=40 seed={seed}]]"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ClusterPlane:
    return ClusterPlane(tmp_path_factory.mktemp("masters"))


@pytest.fixture(scope="module")
def spread(plane: ClusterPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    folder = tmp_path_factory.mktemp("spread")
    with RedisServer(folder / "queues").running() as queues:
        cluster = Breakable(folder, redis=plane, REPLAY_QUEUE_REDIS_URL=queues.url)
        with cluster.running():
            yield cluster


@pytest.fixture
def cluster(spread: Breakable, plane: ClusterPlane) -> Iterator[Breakable]:
    """Well before and after; none of its keys may live for ever."""
    yield spread.well()
    spread.well().settle()
    assert plane.immortal() == []


@pytest.fixture
def names(name: str, cluster: Breakable, plane: ClusterPlane) -> list[str]:
    """Two conversations of each master."""
    found: dict[int, list[str]] = {server.port: [] for server in plane.servers}
    for number in range(1000):
        one = f"{name}-{number}"
        owned = found[plane.owner(Keys(one, "", 0).route).port]
        if len(owned) < 2:
            owned.append(one)
    assert [len(owned) for owned in found.values()] == [2, 2, 2]
    return [one for owned in found.values() for one in owned]


def replayctl(plane: ClusterPlane, *words: str) -> str:
    """What it prints of this plane."""
    command = [sys.executable, "-m", "replay.cli", *words, "--redis-url", plane.url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.clause("KEY-3")
def test_what_one_node_was_asked_for_another_has_from_any_byte(
    cluster: Breakable, plane: ClusterPlane, names: list[str]
) -> None:
    node, other = cluster.nodes
    for seed, one in enumerate(names):
        words = WORDS.format(tokens=20, seed=seed)
        log = node.post(one, words, stream=True).content
        assert text_of(events(log)) == answer_to(words)
        for offset in (0, 1, len(log) // 2, len(log) - 1, len(log)):
            assert other.read(one, from_=offset).content == log[offset:]
    found = {one["conversation_id"]: one["state"] for one in other.lookup(*names)}
    assert found == dict.fromkeys(names, "completed")
    listed = json.loads(replayctl(plane, "sessions", "ls", "--json"))
    assert {one["conversation"] for one in listed} >= set(names)
    assert replayctl(plane, "sessions", "tail", names[0], "--raw") == node.read(names[0]).text
    for one in names:
        assert other.stop(one).status_code == 204
    assert node.lookup(*names) == []
    assert {node.read(one).status_code for one in names} == {404}


@pytest.mark.clause("KEY-3")
def test_another_node_stops_what_runs_and_what_waits(cluster: Breakable, names: list[str]) -> None:
    node, other = cluster.nodes
    for seed, one in enumerate(names):
        cluster.begin(node, one, WORDS.format(tokens=4000, seed=seed))
    for one in names:
        assert other.stop(one, keep="true").headers["X-Stream-State"] == "stopped"
    for one in names:
        assert cluster.followed(node, one).endswith(end_comment("stopped", "client"))


@pytest.mark.clause("REC-5")
def test_a_worker_that_dies_costs_a_pause(cluster: Breakable, names: list[str]) -> None:
    node, other = cluster.nodes
    names = names[::2]  # one of each master
    asked = {one: WORDS.format(tokens=300, seed=seed) for seed, one in enumerate(names)}
    for one, words in asked.items():
        cluster.begin(node, one, words)
    held_by = {one: stored(cluster.db, one).fields["worker"] for one in names}
    killed = held_by[names[0]]
    cluster.kill(killed)
    for one, words in asked.items():
        assert text_of(events(cluster.followed(other, one))) == answer_to(words)
        if held_by[one] == killed:
            assert stored(cluster.db, one).takeovers


@contextmanager
def answers_unharmed(cluster: Breakable, names: list[str]) -> Iterator[None]:
    """A block in which sessions run and are read on both nodes; none may notice but by a pause."""
    asked = {one: WORDS.format(tokens=200, seed=seed) for seed, one in enumerate(names)}
    for one, words in asked.items():
        cluster.begin(cluster.nodes[0], one, words)
    with ThreadPoolExecutor(2 * len(names)) as readers:
        logs = {
            one: [readers.submit(cluster.followed, at, one) for at in cluster.nodes]
            for one in names
        }
        yield
        for one, words in asked.items():
            here, there = (log.result() for log in logs[one])
            assert here == there
            assert text_of(events(here)) == answer_to(words)


@pytest.mark.guarantee("T7")
@pytest.mark.clause("KEY-3")
def test_a_master_that_is_killed_and_comes_back_costs_a_pause(
    cluster: Breakable, plane: ClusterPlane, names: list[str]
) -> None:
    other = plane.servers[0]
    with answers_unharmed(cluster, names), plane.servers[1].out():
        in_the_end(lambda: ask(other, "CLUSTER INFO")["cluster_state"] == "fail")
    plane.wait_whole()


@pytest.mark.guarantee("T8")
@pytest.mark.clause("KEY-3")
def test_a_master_that_is_killed_is_replaced_by_its_replica(
    cluster: Breakable, plane: ClusterPlane, names: list[str]
) -> None:
    key = Keys(names[-1], "", 0).route
    was = plane.owner(key)
    assert was is plane.servers[-1]
    with answers_unharmed(cluster, names), was.out():
        in_the_end(lambda: plane.owner(key) is plane.replica)
        in_the_end(lambda: ask(plane.replica, "CLUSTER INFO")["cluster_state"] == "ok")
    plane.wait_whole()
    assert plane.owner(key) is plane.replica
