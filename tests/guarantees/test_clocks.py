"""Clocks of nodes and workers that are wrong, and that jump: every time that counts is Redis's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from email.utils import parsedate_to_datetime
from math import ceil
from pathlib import Path

import pytest
from redis import Redis

from tests.chaos.world import SHIFTED, faketime_library
from tests.protocol.stored import stored
from tests.protocol.wire import DONE, Node, events, text_of, until

from .breakable import Breakable, answer_to

MINUTES = 10
AHEAD, BEHIND = f"+{MINUTES}m", f"-{MINUTES}m"
RETENTION_S, GRACE_S = 7200, 120
SLACK_S = 60


class Clock:
    """The clock of one process: as the machine's, until it jumps."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump("+0")

    def jump(self, offset: str) -> None:
        """It is so much off from now on."""
        part = self._file.with_suffix(".part")
        part.write_text(offset)
        part.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to live by it."""
        library = faketime_library()
        if library is None:
            pytest.skip("no libfaketime is installed")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # it looks at the file so often, else at each question
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(SHIFTED),
        }


@pytest.fixture
def clocks(tmp_path: Path) -> dict[str, Clock]:
    """The clocks of a node and of both workers; the other node has the machine's."""
    return {name: Clock(tmp_path / name) for name in ("api-1", "worker-1", "worker-2")}


@pytest.fixture
def cluster(clocks: dict[str, Clock], tmp_path: Path) -> Iterator[Breakable]:
    """A cluster that lives by them."""
    children = {name: clock.environment for name, clock in clocks.items()}
    with Breakable(
        tmp_path, children=children, REPLAY_SLOTS="2", REPLAY_LEASE_S="3"
    ).running() as cluster:
        yield cluster


@pytest.mark.guarantee("T26")
@pytest.mark.guarantee("T37")
@pytest.mark.clause("REC-2")
@pytest.mark.clause("REC-4")
def test_clocks_that_jump_by_minutes_change_nothing(
    cluster: Breakable, clocks: dict[str, Clock], name: str
) -> None:
    (ahead, exact), db = cluster.nodes, cluster.db
    running = {f"{name}-{number}": f"[[tokens=400 rate=40 seed={number}]]" for number in range(4)}
    for one, words in running.items():
        cluster.begin(ahead, one, words)
    clocks["api-1"].jump(AHEAD)
    clocks["worker-1"].jump(BEHIND)
    clocks["worker-2"].jump(BEHIND)
    until(lambda: minutes_off(ahead) == MINUTES)

    # All slots are taken: who waits is served in the order of asking, whoever was asked.
    queued = [f"{name}-first", f"{name}-second", f"{name}-third"]
    asked = "[[tokens=10 rate=0 seed=9]]"
    with ExitStack() as posts:
        waiting = []
        for place, (node, one) in enumerate(zip((ahead, exact, ahead), queued, strict=True)):
            waiting.append(posts.enter_context(node.posting(one, asked)))
            assert exact.place(one) == place
        before = {worker: len(cluster.log_of(worker)) for worker in cluster.worker_pids}
        takeovers = {one: takeovers_after_death_of(db, "worker-1", one) for one in running}
        cluster.kill("worker-1")
        for one, words in running.items():
            log = cluster.followed(exact, one)
            assert log.endswith(DONE), log[-500:]
            assert text_of(events(log)) == answer_to(words)
        for post in waiting:
            assert text_of(events(post.whole())) == answer_to(asked)

    # Whoever went on, be it the killed worker's successor, went by a clock that is behind.
    logs = [cluster.log_of(worker)[size:] for worker, size in before.items()]
    assert minutes_off_in("".join(logs)) == {-MINUTES}
    assert {one: stored(db, one).takeovers for one in running} == takeovers
    for one in [*running, *queued]:
        lives_by_redis(db, one)


def minutes_off(node: Node) -> int:
    """How far a node's own clock is from the machine's."""
    said = parsedate_to_datetime(node.http.get("/health").headers["date"])
    return round((said.timestamp() - time.time()) / 60)


def takeovers_after_death_of(db: Redis, worker: str, name: str) -> int:
    """One more than before where it was the session's worker, and no more where it was not."""
    session = stored(db, name)
    return session.takeovers + (session.fields["worker"] == worker)


def minutes_off_in(log: str) -> set[int]:
    """The same of workers', by the times of the last minute at which they took something over."""
    said = re.findall(r"^(\S+ \S+),\d+ INFO .* attempt \d+ from", log, re.MULTILINE)
    times = [datetime.fromisoformat(one).timestamp() for one in said]
    return {ceil((one - time.time()) / 60) for one in times}


def lives_by_redis(db: Redis, name: str) -> None:
    """Every time of an ended session is as Redis's clock has it."""
    session = stored(db, name)
    now_ms = db.time()[0] * 1000
    times = [int(session.fields[one]) for one in ("created_ms", "last_ms", "ended_ms")]
    assert times == sorted(times)
    assert all(abs(now_ms - one) < SLACK_S * 1000 for one in times)
    assert int(session.fields["expires_ms"]) - times[-1] == RETENTION_S * 1000
    left_s = db.ttl(session.keys.stream)
    assert RETENTION_S + GRACE_S - SLACK_S <= left_s <= RETENTION_S + GRACE_S
