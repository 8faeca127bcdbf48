"""How long a POST waits until its session has a slot, on an idle cluster of real processes.

One node, one worker with the scripted engine, which answers at once. Between two POSTs the cluster
is left alone for a moment and the floors are taken, by the same Redis client on the same server.
The trips to Redis that stand on the path are counted by Redis itself (MONITOR), in a pass apart
from the timed one, which MONITOR would slow down.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from redis import Redis

from deploy.local.cluster import Cluster
from replay.redis_scripts import script
from tests.benchmarks.companion import Companion
from tests.benchmarks.http_socket import Exchange, HttpSocket
from tests.benchmarks.report import Row

MODEL = "scripted"
REST_S = 0.02
LOADED_MAX_S = 20.0
SAME_TRIP_S = 60e-6
"""Commands of one client that Redis runs closer together than this came in one trip."""

MARK = "benchmark:mark"
WARM_POSTS = 20
FIRST, LAST = "rpush", "hgetall"
"""The path begins with the node's question to *prepare*, and ends with the worker's look at the
record, after which the slot is taken without Redis."""

BESIDE = ("rc:worker", "rc:node", "ping", "blpop", "subscribe", "xrange", "due", "client")
"""What nodes and workers do at all times, and what the node does while the worker is at it."""

STAGES = {
    "prepare, at the worker and back": "rpush rc:prepare",
    "queue number, watch, open": "incrby rc:queue-number",
    "arq's enqueue, wake-up": "arq:job",
    "arq's poll": "zrangebyscore rc:queue",
    "claim": script("claim").sha,
}
"""Stages by what stands in the first command of each."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many POSTs are timed, and how many are watched by MONITOR."""

    posts: int = 300
    watched: int = 40


TINY = Sizes(posts=10, watched=3)


@dataclass(frozen=True, slots=True)
class Seen:
    """One command that Redis ran: when (its clock, seconds), for whom, and its words."""

    at_s: float
    client: str
    words: str


@dataclass(frozen=True, slots=True)
class Took:
    """Milliseconds, one value for each POST. ``pings``: of all of them together."""

    to_slot: list[float] = field(default_factory=list)
    to_body: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rig:
    """What is measured, and what measures."""

    http: HttpSocket
    slots: Companion
    floors: Companion
    redis_url: str

    def post(self, name: str) -> Exchange:
        """One short answer in a conversation of its own."""
        message = {"role": "user", "content": f"{name} [[tokens=2 rate=0]]"}
        body = {"model": MODEL, "stream": True, "messages": [message]}
        return self.http.post("/v1/chat/completions", body, {"X-Conversation-Id": name})


def measure(sizes: Sizes) -> list[Row]:
    """The rows of this benchmark."""
    with started() as rig:
        for number in range(WARM_POSTS):
            rig.post(f"warm-{number}")
        trips, commands, stages = watched(rig, sizes.watched)
        took = timed(rig, sizes.posts, trips=round(median(trips)))
    beside_s = "by MONITOR, in a pass apart"
    return [
        Row("POST to slot", took.to_slot, "ms"),
        Row("POST to first body byte", took.to_body, "ms"),
        Row("as many PINGs in a row as trips", took.pings, "ms", is_floor=True),
        Row("push to BLPOP's return", took.wakes, "ms", is_floor=True),
        Row("trips to Redis before the slot", trips, "trips", note=beside_s),
        Row("commands in them", commands, "commands", note=beside_s),
        *(Row(f"of it: {stage}", spent, "ms", note=beside_s) for stage, spent in stages.items()),
    ]


@contextmanager
def started() -> Iterator[Rig]:
    """A cluster whose one worker is ours."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Cluster(Path(folder), "--api-nodes", "1", "--workers", "0") as cluster,
        Companion(
            "slot_clock",
            REPLAY_REDIS_URL=cluster.redis_url,
            REPLAY_ENGINE="scripted",
            REPLAY_MODELS=f"{MODEL}=scripted",
            REPLAY_WORKER="bench",
        ) as slots,
        Companion("redis_floors", cluster.redis_url) as floors,
    ):
        http = HttpSocket(cluster.nodes[0])
        try:
            await_model(http)
            yield Rig(http, slots, floors, cluster.redis_url)
        finally:
            http.close()


def await_model(http: HttpSocket) -> None:
    """Returns once the node lists a loaded model. Raises TimeoutError."""
    until_s = time.monotonic() + LOADED_MAX_S
    while b'"loaded"' not in http.get("/v1/models").raw:
        if time.monotonic() > until_s:
            raise TimeoutError("no model was loaded")
        time.sleep(REST_S)


def timed(rig: Rig, posts: int, *, trips: int) -> Took:
    """Each POST, and after it both floors."""
    took = Took()
    sent: dict[str, float] = {}
    for number in range(posts):
        exchange = rig.post(f"post-{number}")
        sent[f"post-{number}"] = exchange.sent_s
        took.to_body.append(exchange.until_body() * 1000)
        time.sleep(REST_S)  # the session is let go of: what is measured is an idle cluster
        took.pings.append(rig.floors.ask("pings", count=trips) * 1000)
        took.wakes.append(rig.floors.ask("wake") * 1000)
    slots = {path.split("/")[1]: at for path, at in rig.slots.ask("slots").items()}
    took.to_slot.extend((slots[name] - at) * 1000 for name, at in sent.items())
    return took


def watched(rig: Rig, posts: int) -> tuple[list[int], list[int], dict[str, list[float]]]:
    """Trips and commands of each POST's path, and how long its stages took in milliseconds."""
    trips, commands = [], []
    stages: dict[str, list[float]] = {}
    with (
        Redis.from_url(rig.redis_url) as marker,
        Redis.from_url(rig.redis_url) as listener,
        listener.monitor() as monitor,
    ):
        for number in range(posts):
            rig.post(f"watched-{number}")
            time.sleep(REST_S)
            path = path_of(list(until_mark(monitor, marker)))
            trips.append(len(trips_of(path)))
            commands.append(len(path))
            for stage, took_ms in staged(path).items():
                stages.setdefault(stage, []).append(took_ms)
    return trips, commands, stages


def until_mark(monitor: Any, marker: Redis) -> Iterator[Seen]:
    """What Redis has run since the last mark."""
    mark = f"{MARK}:{uuid4().hex}"
    marker.get(mark)
    for told in monitor.listen():
        if mark in told["command"]:
            return
        if told["client_type"] != "lua" and MARK not in told["command"]:
            client = f"{told['client_address']}:{told['client_port']}"
            yield Seen(told["time"], client, told["command"])


def path_of(seen: Sequence[Seen]) -> list[Seen]:
    """The commands that a POST's slot has to wait for. Pure."""
    words = [one.words.lower() for one in seen]
    begin = next(i for i, word in enumerate(words) if word.startswith(FIRST))
    end = max(i for i, word in enumerate(words) if word.startswith(LAST) and ":record" in word)
    path = zip(seen[begin : end + 1], words[begin : end + 1], strict=True)
    return [one for one, word in path if not any(beside in word for beside in BESIDE)]


def trips_of(path: Sequence[Seen]) -> list[list[Seen]]:
    """The path as trips: a client's commands that ran back to back came together. Pure."""
    trips: dict[str, list[list[Seen]]] = {}
    for one in path:
        mine = trips.setdefault(one.client, [])
        if mine and one.at_s - mine[-1][-1].at_s < SAME_TRIP_S:
            mine[-1].append(one)
        else:
            mine.append([one])
    return [trip for mine in trips.values() for trip in mine]


def staged(path: Sequence[Seen]) -> dict[str, float]:
    """How long each stage took in milliseconds; one whose mark is not there is left out. Pure."""
    begins = {path[-1].at_s: ""}
    for stage, mark in STAGES.items():
        if found := [one.at_s for one in path if mark in one.words.lower()]:
            begins[found[0]] = stage
    return {begins[at]: (after - at) * 1000 for at, after in pairwise(sorted(begins))}
