"""Nodes that die, leave and are replaced: the next byte is to be had at any other."""

from __future__ import annotations

import asyncio
import signal
import time
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain, cycle

import pytest

from tests.protocol.stored import stored
from tests.protocol.wire import end_comment, events, text_of, until

from .audience import Reader
from .breakable import Breakable, answer_to

READERS = 50
PIECE_BYTES = 200
DRAIN_S = 2.0
BUCKETS = 5
PEAK_MAX = 4
"""Most readers that may be cut in a fifth of a drain, by those of a fifth on average."""


def said(log: bytes) -> str:
    """The text of a whole log."""
    return text_of(events(log))


@pytest.mark.guarantee("T1")
def test_every_request_may_go_to_another_node(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    cluster = cluster_of(nodes=3, workers=1)
    nodes = cycle(cluster.nodes)
    words = f"{name} [[tokens=150 rate=100 seed=1]]"
    log, asked, is_whole = b"", Counter[str](), False
    with next(nodes).posting(name, words) as post:
        post.first(1)
        while not is_whole:
            with next(nodes).reading(name, from_=len(log)) as part:
                asked[part.headers["x-replay-node"]] += 1
                while len(part.data) < PIECE_BYTES and not is_whole:
                    is_whole = not part.chunk()
                log += part.data[: len(part.data) if is_whole else PIECE_BYTES]
        assert post.whole() == log
    assert said(log) == answer_to(words)
    assert len(asked) == 3 and max(asked.values()) - min(asked.values()) <= 1


@pytest.mark.guarantee("T1")
def test_a_stop_at_the_third_node_ends_it_at_the_first(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    one, two, three = cluster_of(nodes=3, workers=1).nodes
    with one.posting(name, "[[tokens=100000 rate=50]]") as post:
        log = post.first(500)
        with two.reading(name, from_=len(log)) as reader:
            reader.first(1)
            assert three.stop(name, keep="true").status_code == 204
            rest, whole = reader.whole(), post.whole()
    assert log + rest == whole
    assert whole.endswith(end_comment("stopped", "client"))
    told = [node.lookup(name) for node in (one, two, three)]
    assert told[0] == told[1] == told[2]


@pytest.mark.guarantee("T2")
def test_fifty_readers_of_a_killed_node_go_on_elsewhere(cluster: Breakable, name: str) -> None:
    there, elsewhere = cluster.nodes
    words = f"{name} [[tokens=600 rate=60 seed=2]]"
    with ExitStack() as stack:
        posted = stack.enter_context(there.posting(name, words))
        posted.first(1)
        readers = [stack.enter_context(there.reading(name)) for _ in range(READERS)]
        for reader in readers:
            reader.first(2000)
        cluster.cluster.kill("api-1")
        got = [reader.cut() for reader in (posted, *readers)]
        resumed = [stack.enter_context(elsewhere.reading(name, from_=len(start))) for start in got]
        for reader in resumed:
            reader.first(1)
        assert not elsewhere.found(name)["is_done"]
        logs = [start + reader.whole() for start, reader in zip(got, resumed, strict=True)]
    assert len(set(logs)) == 1
    assert said(logs[0]) == answer_to(words)
    assert stored(cluster.db, name).fields["attempt"] == "1"


@pytest.mark.guarantee("T24")
def test_a_roll_out_loses_no_reader_and_is_no_storm(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    cluster = cluster_of(nodes=2, workers=1, REPLAY_DRAIN_S=str(DRAIN_S))
    with cluster.nodes[0].posting(name, f"{name} [[tokens=100000 rate=50]]") as post:
        post.first(1)
        readers, rounds = asyncio.run(rolled_out(cluster, name))
        log = cluster.nodes[0].read(name).content
    assert {reader.data for reader in readers} == {log}
    cuts_s = sorted(chain.from_iterable(reader.cuts_s for reader in readers))
    for told_s in rounds:
        drained = [cut_s - told_s for cut_s in cuts_s if 0 <= cut_s - told_s < DRAIN_S + 1]
        fifths = Counter(int(BUCKETS * after_s / DRAIN_S) for after_s in drained)
        assert max(fifths.values()) <= PEAK_MAX * len(drained) / BUCKETS, fifths


async def rolled_out(cluster: Breakable, name: str) -> tuple[list[Reader], list[float]]:
    """Restarts one node after the other under readers; these, and when each node was told."""
    nodes, told_s = cycle(cluster.cluster.nodes), []
    readers = [Reader() for _ in range(READERS)]
    reading = [asyncio.create_task(one.follow(lambda: next(nodes), name)) for one in readers]
    for node in ("api-1", "api-2"):
        await all_served(readers, reading)
        told_s.append(await asyncio.to_thread(restarted, cluster, node))
    await asyncio.to_thread(cluster.nodes[1].stop, name, keep="true")
    await asyncio.gather(*reading)
    return readers, told_s


@pytest.mark.guarantee("T24")
def test_old_readers_are_cut_and_answers_to_posts_are_not(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    there, elsewhere = cluster_of(nodes=2, workers=1, REPLAY_CONNECTION_AGE_S="1").nodes
    words = f"{name} [[tokens=400 rate=50 seed=3]]"
    with there.posting(name, words) as named, there.posting(None, words) as plain:
        named.first(1)
        with there.reading(name) as reader:
            got = reader.cut()
        assert got and not elsewhere.found(name)["is_done"]
        log = named.whole()
        assert said(plain.whole()) == said(log) == answer_to(words)
    assert got + elsewhere.read(name, from_=len(got)).content == log


async def all_served(readers: list[Reader], reading: list[asyncio.Task[None]]) -> None:
    """Returns once every reader has got more bytes."""
    before = [len(reader.data) for reader in readers]
    async with asyncio.timeout(30):
        while any(len(one.data) <= size for one, size in zip(readers, before, strict=True)):
            ended, _ = await asyncio.wait(reading, timeout=0.05, return_when=FIRST_COMPLETED)
            assert not ended, ended


def restarted(cluster: Breakable, name: str) -> float:
    """Tells a node to go, and waits for the next one; when it was told."""
    told_s = time.monotonic()
    pid = cluster.kill(name, signal.SIGTERM)
    until(lambda: cluster.cluster.pids[name] not in (pid, None))
    cluster.well()
    return told_s
