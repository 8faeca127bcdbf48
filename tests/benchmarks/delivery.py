"""What one delivered event costs a node, with 300 live streams and with 5,000 idle readers beside.

Three servers get the same events in turns: the node; uvicorn fed by a bare pub/sub connection; and
uvicorn fed by a timer, without Redis. Each runs in a process of its own, whose CPU time (user and
system) over a wave of events is divided by the events that readers have counted.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from deploy.local.cluster import Cluster
from replay import keys
from replay.identity import SessionRef
from tests.benchmarks.companion import Companion
from tests.benchmarks.http_socket import HttpSocket
from tests.benchmarks.report import Row
from tests.benchmarks.usage import connections_to, cpu_s, memory_bytes, user_s

ROUND_S = 0.1
"""One event for each session in this time: ten a second, about what a person can read."""

BURSTS, BURST_EVENTS = 5, 20_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """Readers, and how long the waves are.

    ``idle_waves`` together should cover the time within which the node asks about every silent
    session once (17 s), for that is what idle readers cost.
    """

    live: int = 300
    idle: int = 5_000
    floor_idle: int = 1_000
    waves: int = 4
    idle_waves: int = 7
    rounds: int = 25


TINY = Sizes(live=16, idle=50, floor_idle=50, waves=2, idle_waves=2, rounds=5)


@dataclass(frozen=True, slots=True)
class Rig:
    """The node, the floors, and what stands on both sides of them."""

    cluster: Cluster
    floors: Companion
    sessions: Companion
    readers: Companion
    node_pid: int
    redis_pid: int


@dataclass(frozen=True, slots=True)
class Waves:
    """What waves to one group came to; microseconds a delivered event, milliseconds of delay."""

    server_us: list[float] = field(default_factory=list)
    user_us: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)
    delay_p50_ms: list[float] = field(default_factory=list)
    delay_p99_ms: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)


def measure(sizes: Sizes) -> list[Row]:
    """The rows of this benchmark."""
    with started() as rig:
        groups = {"timed": Waves(), "bare": Waves(), "node": Waves()}
        connections = [connected(rig)]
        open_live(rig, sizes.live)
        connections.append(connected(rig))
        burst_us = [burst(rig) for _ in range(BURSTS)]
        for _ in range(sizes.waves):
            for group, waves in groups.items():
                wave(rig, group, waves, sizes)
        floor_idle, node_idle = open_idle(rig, sizes)
        connections.append(connected(rig))
        beside = Waves()
        began_s, began_cpu_s = time.monotonic(), cpu_s(rig.node_pid)
        for _ in range(sizes.idle_waves):
            wave(rig, "node", beside, sizes)
        share = (cpu_s(rig.node_pid) - began_cpu_s) / (time.monotonic() - began_s)
    return [
        *rows(sizes, groups, beside, burst_us),
        Row("node's CPU in that time", [share * 100], "% of a core"),
        Row("memory of the node for an idle reader", [node_idle / 1024], "KiB", note="Pss"),
        Row("the same, uvicorn alone", [floor_idle / 1024], "KiB", is_floor=True, note="Pss"),
        Row("the node's Redis connections, no reader", [connections[0]], ""),
        Row(f"the same, {sizes.live} live readers", [connections[1]], ""),
        Row(f"the same, {sizes.idle} idle beside", [connections[2]], ""),
    ]


def rows(sizes: Sizes, groups: dict[str, Waves], beside: Waves, burst_us: list[float]) -> list[Row]:
    """The rows of the waves. Pure."""
    node, bare, timed = groups["node"], groups["bare"], groups["timed"]
    live = f"{sizes.live} live"
    return [
        Row(f"node, {live}", node.server_us, "µs/event"),
        Row(f"node, {live}, {sizes.idle} idle", beside.server_us, "µs/event"),
        Row(f"uvicorn and bare pub/sub, {live}", bare.server_us, "µs/event", is_floor=True),
        Row(f"uvicorn woken by a timer, {live}", timed.server_us, "µs/event", is_floor=True),
        Row("uvicorn, sends in a row to one reader", burst_us, "µs/event", is_floor=True),
        Row(f"of it user time: node, {live}", node.user_us, "µs/event"),
        Row(f"of it user time: node, {live}, {sizes.idle} idle", beside.user_us, "µs/event"),
        Row("of it user time: bare pub/sub", bare.user_us, "µs/event", is_floor=True),
        Row("of it user time: timer", timed.user_us, "µs/event", is_floor=True),
        Row(f"Redis, {live} (append and publish)", node.redis_us, "µs/event"),
        Row(f"Redis, {live}, {sizes.idle} idle", beside.redis_us, "µs/event"),
        Row(f"append to reader, p50, {live}", node.delay_p50_ms, "ms"),
        Row(f"append to reader, p50, {live}, {sizes.idle} idle", beside.delay_p50_ms, "ms"),
        Row("append to reader, p50, bare pub/sub", bare.delay_p50_ms, "ms", is_floor=True),
        Row(f"append to reader, p99, {live}", node.delay_p99_ms, "ms"),
        Row(f"append to reader, p99, {live}, {sizes.idle} idle", beside.delay_p99_ms, "ms"),
        Row("append to reader, p99, bare pub/sub", bare.delay_p99_ms, "ms", is_floor=True),
        Row("how late the load was", [*node.late_s, *bare.late_s, *beside.late_s], "s"),
    ]


@contextmanager
def started() -> Iterator[Rig]:
    """One node and no worker: what a worker would write is written by ``live_sessions``."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Cluster(Path(folder), "--api-nodes", "1", "--workers", "0") as cluster,
        Companion("floor_server", cluster.redis_url) as floors,
        Companion("live_sessions", cluster.redis_url) as sessions,
        Companion("readers") as readers,
    ):
        node_pid, redis_pid = cluster.pids["api-1"], cluster.pids["redis"]
        assert node_pid is not None and redis_pid is not None
        yield Rig(cluster, floors, sessions, readers, node_pid, redis_pid)


def open_live(rig: Rig, count: int) -> None:
    """A group of readers for each server; the node's and the bare one's have their own sessions."""
    for group in ("node", "bare"):
        paths = rig.sessions.ask("open", prefix=group, count=count)
        urls = node_urls(paths) if group == "node" else bare_urls(paths)
        read(rig, group, urls)
    read(rig, "timed", ["/timed"] * count)


def open_idle(rig: Rig, sizes: Sizes) -> tuple[float, float]:
    """Readers of sessions that say nothing; bytes of memory for each, floor's and node's."""
    before = memory_bytes(rig.floors.pid)
    read(rig, "idle", [f"/live/idle-{n}" for n in range(sizes.floor_idle)], on_floor=True)
    floor = (memory_bytes(rig.floors.pid) - before) / sizes.floor_idle
    paths = rig.sessions.ask("open", prefix="idle", count=sizes.idle)
    before = memory_bytes(rig.node_pid)
    read(rig, "idle", node_urls(paths), on_floor=False)
    return floor, (memory_bytes(rig.node_pid) - before) / sizes.idle


def node_urls(paths: Sequence[str]) -> list[str]:
    """Where the node streams these sessions. Pure."""
    names = [SessionRef.from_path(path).conversation_id for path in paths]
    return [f"/v1/stream?conv_id={quote(name)}&from=0" for name in names]


def bare_urls(paths: Sequence[str]) -> list[str]:
    """Where the floor streams them. Pure."""
    return ["/live/" + quote(keys.channel(SessionRef.from_path(path)), safe="") for path in paths]


def read(rig: Rig, group: str, urls: Sequence[str], *, on_floor: bool | None = None) -> None:
    """Opens a group's readers."""
    if on_floor if on_floor is not None else group != "node":
        port = rig.floors.ask("port")
    else:
        port = urlsplit(rig.cluster.nodes[0]).port
    rig.readers.ask("open", group=group, host="127.0.0.1", port=port, paths=urls)


def wave(rig: Rig, group: str, waves: Waves, sizes: Sizes) -> None:
    """One wave of events to a group, and what it cost its server and Redis."""
    server = rig.node_pid if group == "node" else rig.floors.pid
    rig.readers.ask("expect", group=group, events=sizes.live * sizes.rounds)
    before_s, user_before_s, redis_before_s = cpu_s(server), user_s(server), cpu_s(rig.redis_pid)
    if group == "timed":
        told = rig.floors.ask("emit", rounds=sizes.rounds, round_s=ROUND_S)
    else:
        told = rig.sessions.ask("emit", prefix=group, rounds=sizes.rounds, round_s=ROUND_S)
    counted = rig.readers.ask("counted", group=group)
    waves.server_us.append((cpu_s(server) - before_s) / counted["events"] * 1e6)
    waves.user_us.append((user_s(server) - user_before_s) / counted["events"] * 1e6)
    waves.redis_us.append((cpu_s(rig.redis_pid) - redis_before_s) / counted["events"] * 1e6)
    waves.delay_p50_ms.append(counted["delay_p50_ms"])
    waves.delay_p99_ms.append(counted["delay_p99_ms"])
    if group != "timed":
        waves.late_s.append(told["late_s"])


def burst(rig: Rig) -> float:
    """Microseconds of uvicorn's CPU for one send, of many in a row."""
    http = HttpSocket(f"http://127.0.0.1:{rig.floors.ask('port')}")
    before_s = cpu_s(rig.floors.pid)
    http.get(f"/burst/{BURST_EVENTS}")
    http.close()
    return (cpu_s(rig.floors.pid) - before_s) / BURST_EVENTS * 1e6


def connected(rig: Rig) -> int:
    """The node's connections to Redis."""
    port = urlsplit(rig.cluster.redis_url).port
    assert port is not None
    return connections_to(rig.node_pid, port)
