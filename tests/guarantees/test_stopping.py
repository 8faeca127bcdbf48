"""Stops at every moment of a session's life, from every node."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.protocol.stored import Stored, stored
from tests.protocol.wire import (
    CHAT,
    DONE,
    asking,
    end_comment,
    events,
    naming,
    text_of,
    until,
)
from tests.redis_server import RedisServer

from .breakable import Breakable, answer_to

RACES = 200
TOKENS, RATE = 40, 200
SPREAD_S = 0.005
"""A race's stop comes within this of the last token."""
LANES = 8
STOPS_OF_EACH_KIND = 84
"""Of six kinds: 504 stops."""
AFTERWARDS = "[[tokens=3 rate=0 seed=9]]"


@pytest.mark.guarantee("T16")
def test_a_stop_that_races_the_finish_has_one_winner(cluster: Breakable, name: str) -> None:
    aim = Aim((TOKENS - 1) / RATE)
    with ThreadPoolExecutor(LANES) as lanes:
        races = [lanes.submit(race, cluster, f"{name}-{n}", n, aim) for n in range(RACES)]
        winners = Counter(one.result() for one in races)
    assert set(winners) == {"completed", "stopped"}
    assert min(winners.values()) > RACES / 20, winners


class Aim:
    """When to stop, after an answer's first byte, so that either may win on this machine."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s

    def next_s(self, seed: int) -> float:
        """A little before or after."""
        return max(0.0, self._after_s + random.Random(seed).uniform(-SPREAD_S, SPREAD_S))

    def correct(self, won: str) -> None:
        """Who came late comes earlier."""
        self._after_s += SPREAD_S if won == "stopped" else -SPREAD_S


def race(cluster: Breakable, name: str, seed: int, aim: Aim) -> str:
    """Stops an answer about when its last token comes; who won, as everybody is told."""
    here, there = cluster.nodes if seed % 2 else reversed(cluster.nodes)
    with here.posting(name, f"[[tokens={TOKENS} rate={RATE} seed=5]]") as post:
        post.first(1)
        time.sleep(aim.next_s(seed))  # the race itself
        stop = there.stop(name, keep="true")
        log = post.whole()
    won = stop.headers["x-stream-state"]
    aim.correct(won)
    assert (stop.status_code, stop.headers["x-stream-size"]) == (204, str(len(log)))
    assert log.endswith(DONE if won == "completed" else end_comment("stopped", "client"))
    assert log.count(DONE) + log.count(b": end ") == 1
    for node in (here, there):
        assert node.read(name).content == log
        assert [one["state"] for one in node.lookup(name)] == [won]
        assert node.stop(name, keep="true").headers["x-stream-state"] == won
    session = stored(cluster.db, name)
    assert (session.end or {})["state"] == session.fields["state"] == won
    assert session.log == log
    return won


@pytest.fixture
def three(tmp_path: Path, cluster_of: Callable[..., Breakable]) -> Breakable:
    """Three nodes, and a worker of four slots; the disk is not what is tested."""
    return cluster_of(nodes=3, workers=1, redis=RedisServer(tmp_path, appendfsync="no"))


@contextmanager
def occupied(cluster: Breakable, name: str) -> Iterator[None]:
    """A block during which every slot is taken; afterwards they are free."""
    names = [f"{name}-slot-{number}" for number in range(4)]
    with ExitStack() as stack:
        for one in names:
            stack.enter_context(cluster.nodes[0].posting(one, "[[tokens=100000 rate=10]]"))
        for one in names:
            cluster.nodes[0].reaches(one, "running")
        yield
        for one in names:
            cluster.nodes[0].stop(one)


class Stops:
    """Stops of one cluster, each kind a method: what must be so of the session afterwards."""

    def __init__(self, cluster: Breakable) -> None:
        self.cluster = cluster
        self.nodes = cluster.nodes

    def stop(self, name: str, number: int) -> httpx.Response:
        """From any node; every other one keeps what was said."""
        keep = "true" if number % 2 else None
        return self.nodes[number % len(self.nodes)].stop(name, keep=keep)

    def unknown(self, name: str, number: int) -> httpx.Response:
        return self.stop(name, number)

    def in_validation(self, name: str, number: int) -> httpx.Response:
        """The POST has come, and its body comes after the stop."""
        node = self.nodes[(number + 1) % len(self.nodes)]
        body = json.dumps(asking(AFTERWARDS, stream=True)).encode()
        size = {b"Content-Length": b"%d" % len(body), b"Expect": b"100-continue"}
        with node.exchange("POST", CHAT, {**naming(name), **size}) as post:
            post.awaits_body()
            answer = self.stop(name, number)
            post.send(body)
            assert post.status == 400
        assert node.lookup(name) == []
        return answer

    def queued(self, name: str, number: int) -> httpx.Response:
        node = self.nodes[(number + 1) % len(self.nodes)]
        with node.posting(name, AFTERWARDS) as post:
            session = stored(self.cluster.db, name)
            until(lambda: self._jobs_of(session))
            answer = self.stop(name, number)
            assert self._jobs_of(session) == []
            assert (post.status, session.fields["attempt"]) == (400, "0")
        return answer

    def _jobs_of(self, session: Stored) -> list[bytes]:
        path = session.keys.path.encode()
        jobs: list[bytes] = self.cluster.db.zrange(session.keys.queue, 0, -1)
        return [job for job in jobs if path in job]

    def in_prefill(self, name: str, number: int) -> httpx.Response:
        node = self.nodes[(number + 1) % len(self.nodes)]
        with node.posting(name, "[[prefill_s=60]]") as post:
            session = stored(self.cluster.db, name)
            session.reaches("running")
            answer = self.stop(name, number)
            assert post.status == 400
        assert int(session.fields["token_count"]) == 0
        return answer

    def decoding(self, name: str, number: int) -> httpx.Response:
        node = self.nodes[(number + 1) % len(self.nodes)]
        with node.posting(name, "[[tokens=100000 rate=100]]") as post:
            post.first(1)
            session = stored(self.cluster.db, name)
            answer = self.stop(name, number)
            count = session.fields["token_count"]
            assert answer.headers["x-stream-size"] == str(len(post.whole()))
        assert session.fields["token_count"] == count
        assert self.cluster.db.strlen(session.keys.tokens) == 8 * int(count)
        return answer

    def ended(self, name: str, number: int) -> httpx.Response:
        self.nodes[(number + 1) % len(self.nodes)].post(name, AFTERWARDS)
        answer = self.stop(name, number)
        assert answer.headers["x-stream-state"] == "completed"
        return answer

    def poisons_nothing(self, name: str, number: int) -> None:
        """The next session of the conversation, on any node, is as if nothing had been."""
        log = self.nodes[(number + 2) % len(self.nodes)].post(name, AFTERWARDS, stream=True).content
        assert log.endswith(DONE)
        assert text_of(events(log)) == answer_to(AFTERWARDS)


@pytest.mark.guarantee("T17")
@pytest.mark.timeout(300)
def test_hundreds_of_stops_whenever_they_come(three: Breakable, name: str) -> None:
    stops = Stops(three)
    numbers = range(STOPS_OF_EACH_KIND)
    with ThreadPoolExecutor(LANES) as lanes, ThreadPoolExecutor(4) as slots:
        kinds = {
            "unknown": lanes,
            "in_validation": lanes,
            "queued": lanes,
            "ended": lanes,
            "in_prefill": slots,
            "decoding": slots,
        }
        for kind, threads in kinds.items():
            act = getattr(stops, kind)
            with ExitStack() as stack:
                if kind == "queued":
                    stack.enter_context(occupied(three, name))
                made = [threads.submit(act, f"{name}-{kind}-{n}", n) for n in numbers]
                answers = {(one.result().status_code, one.result().content) for one in made}
            assert answers == {(204, b"")}, kind
            after = [lanes.submit(stops.poisons_nothing, f"{name}-{kind}-{n}", n) for n in numbers]
            assert [one.result() for one in after] == [None] * len(numbers)


@pytest.mark.guarantee("T36")
def test_a_client_that_leaves_at_once_while_every_slot_is_taken(
    three: Breakable, name: str
) -> None:
    here, there, _ = three.nodes
    words = "[[tokens=12 rate=0 seed=4]]"
    names = [f"{name}-{number}" for number in range(24)]
    left, stopped = names[::2], names[1::2]
    with occupied(three, name):
        for one in names:
            here.posting(one, words).close()
        sessions = {one: stored(three.db, one) for one in names}
        queue = sessions[name + "-0"].keys.queue
        until(lambda: three.db.zcard(queue) == len(names))
        for number, one in enumerate(stopped, 1):
            assert there.stop(one).headers["x-stream-state"] == "stopped"
            assert three.db.zcard(queue) == len(names) - number
        places = sorted(there.lookup(one)[0]["queue_position"] for one in left)
        assert places == list(range(len(left)))
    for one in left:
        log = there.read(one).content
        assert (text_of(events(log)), log.endswith(DONE)) == (answer_to(words), True)
        assert here.read(one, from_=len(log) // 2).content == log[len(log) // 2 :]
    for one in stopped:
        assert (there.read(one).status_code, sessions[one].fields["attempt"]) == (404, "0")
