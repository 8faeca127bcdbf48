"""Readers beside the end of a retention: all of it or a refusal, never a part that looks whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.protocol.stored import Stored, stored
from tests.protocol.wire import STREAM, WAIT_S, Exchange, Node, target, until

from .breakable import Breakable

RETENTION_S = 3.0
AROUND_S = 0.03
"""Readers come all the time, from so long before the first refusal until so long after it."""
SHORT = "[[tokens=40 rate=0 seed=1]]"
LARGE = "[[tokens=8000 rate=0 seed=2]]"
"""Some 2 MB: far more than what lies between a node and a reader that does not read."""


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """Two nodes whose sessions are kept for a moment."""
    folder = tmp_path_factory.mktemp("forgetful")
    cluster = Breakable(folder, workers=1, REPLAY_RETENTION_S=str(RETENTION_S))
    with cluster.running():
        yield cluster


def expires_s(session: Stored) -> float:
    """When its retention ends, by the clock of this machine, which is Redis's."""
    return int(session.fields["expires_ms"]) / 1000


@pytest.mark.guarantee("T22")
@pytest.mark.clause("LOOKUP-1")
@pytest.mark.parametrize("attempt", range(4))
def test_who_comes_as_the_retention_ends_gets_all_or_is_refused(
    forgetful: Breakable, name: str, attempt: int
) -> None:
    log = forgetful.nodes[0].post(name, SHORT, stream=True).content
    session = stored(forgetful.db, name)
    offset = attempt * len(log) // 4

    def come(node: Node, epoch: int | None) -> None:
        refusal, statuses = 410 if epoch else 404, [200]
        last_s = expires_s(session) + WAIT_S
        time.sleep(max(0.0, expires_s(session) - AROUND_S - time.time()))  # when they come
        while time.time() < last_s:
            answer = node.read(name, epoch=epoch, from_=offset)
            assert answer.status_code == refusal or answer.content == log[offset:]
            statuses.append(answer.status_code)
            if answer.status_code == refusal:
                last_s = min(last_s, time.time() + AROUND_S)
        assert set(statuses) == {200, refusal} and statuses == sorted(statuses)

    epochs = (None, session.keys.epoch)
    with ThreadPoolExecutor(4) as readers:
        coming = [readers.submit(come, node, epoch) for node in forgetful.nodes for epoch in epochs]
        assert [one.result() for one in coming] == [None] * 4
    for node in forgetful.nodes:
        assert node.lookup(name) == []


def slow_reader(node: Node, name: str) -> Exchange:
    """A GET that has taken its first bytes, and reads on when it is told to."""
    reader = Exchange(node.url, "GET", target(STREAM, conv_id=name), receive_buffer_bytes=4096)
    reader.first(1)
    return reader


@pytest.mark.guarantee("T22")
def test_who_is_there_when_the_retention_ends_reads_to_the_end(
    forgetful: Breakable, name: str
) -> None:
    here, there = forgetful.nodes
    log = here.post(name, LARGE, stream=True).content
    with slow_reader(there, name) as reader:
        until(lambda: here.read(name).status_code == 404)
        assert len(reader.data) < len(log) / 2
        assert reader.whole() == log


@pytest.mark.guarantee("T22")
@pytest.mark.clause("GET-7")
@pytest.mark.parametrize("forgotten_by", ["retention", "eviction"])
def test_who_is_too_slow_even_for_the_time_after_it_is_cut(
    forgetful: Breakable, name: str, forgotten_by: str
) -> None:
    here, there = forgetful.nodes
    log = here.post(name, LARGE, stream=True, sse_ping_interval=1).content
    session = stored(forgetful.db, name)
    with slow_reader(there, name) as reader:
        if forgotten_by == "eviction":
            here.stop(name)
        else:
            forgetful.kill("worker-1")  # it would tell a Redis that forgot so soon
        for key in (session.keys.record, session.keys.stream, session.keys.tokens):
            forgetful.db.pexpire(key, 1)  # the minutes that are left to readers have passed
        until(lambda: not forgetful.db.exists(session.keys.stream))
        told = reader.cut()
    assert log.startswith(told) and len(told) < len(log)
