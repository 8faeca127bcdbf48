"""What thousands of readers who wait cost two nodes, and how soon they hear of an event."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.cluster import Cluster
from tests.benchmarks.companion import Companion
from tests.benchmarks.delivery import node_urls
from tests.benchmarks.report import Row
from tests.benchmarks.usage import connections_to, memory_bytes

NODES = ("api-1", "api-2")


@dataclass(frozen=True, slots=True)
class Sizes:
    """``readers`` of each node are spread over so many streams, in one run for each number."""

    readers: int = 5_000
    streams: tuple[int, ...] = (1, 1_000)
    rounds: int = 5
    round_s: float = 2.0


TINY = Sizes(readers=50, streams=(1, 10), rounds=2, round_s=0.2)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run; lists have one value a node. ``lost`` is how many events did not come."""

    bytes_each: list[float]
    connections: list[int]
    connections_before: list[int]
    wake_p50_ms: list[float]
    wake_p99_ms: list[float]
    lost: int


def measure(sizes: Sizes) -> list[Row]:
    """The rows of this benchmark."""
    rows = []
    for streams in sizes.streams:
        figures = run(sizes, streams)
        who = f"2 x {sizes.readers} readers of {streams} streams"
        rows += [
            Row(f"memory of a node for each of {who}", _kib(figures.bytes_each), "KiB", note="Pss"),
            Row(f"a node's Redis connections, {who}", figures.connections, ""),
            Row(f"append to reader, p50, {who}", figures.wake_p50_ms, "ms"),
            Row(f"append to reader, p99, {who}", figures.wake_p99_ms, "ms"),
        ]
    return rows


def _kib(sizes: list[float]) -> list[float]:
    return [size / 1024 for size in sizes]


def run(sizes: Sizes, streams: int) -> Figures:
    """Opens the readers of both nodes, then wakes them all in each round."""
    with _started() as (cluster, sessions, readers):
        urls = node_urls(sessions.ask("open", prefix="idle", count=streams))
        urls = [urls[number % streams] for number in range(sizes.readers)]
        pids = [cluster.pids[name] or 0 for name in NODES]
        redis = urlsplit(cluster.redis_url).port or 0
        connections_before = [connections_to(pid, redis) for pid in pids]
        memory_before = [memory_bytes(pid) for pid in pids]
        for url, group in zip(cluster.nodes, readers, strict=True):
            where = {"host": "127.0.0.1", "port": urlsplit(url).port}
            group.ask("open", group="idle", paths=urls, **where)
        memory = [memory_bytes(pid) for pid in pids]
        connections = [connections_to(pid, redis) for pid in pids]
        wanted = sizes.readers * sizes.rounds
        for group in readers:
            group.ask("expect", group="idle", events=wanted)
        sessions.ask("emit", prefix="idle", rounds=sizes.rounds, round_s=sizes.round_s)
        counted = [group.ask("counted", group="idle") for group in readers]
    return Figures(
        bytes_each=[
            (after - before) / sizes.readers
            for before, after in zip(memory_before, memory, strict=True)
        ],
        connections=connections,
        connections_before=connections_before,
        wake_p50_ms=[told["delay_p50_ms"] for told in counted],
        wake_p99_ms=[told["delay_p99_ms"] for told in counted],
        lost=sum(wanted - told["events"] for told in counted),
    )


@contextmanager
def _started() -> Iterator[tuple[Cluster, Companion, list[Companion]]]:
    """Two nodes; what a worker would write is written by ``live_sessions``.

    The readers of each node have a process of their own: a process may have 20,000 files open.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Cluster(Path(folder), "--api-nodes", str(len(NODES)), "--workers", "0") as cluster,
        Companion("live_sessions", cluster.redis_url) as sessions,
        Companion("readers") as one,
        Companion("readers") as two,
    ):
        yield cluster, sessions, [one, two]
