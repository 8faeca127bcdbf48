"""`python -m tests.chaos.soak --minutes 30`: churn without faults, and whatever piles up is told.

Round after round of clients that post, leave, resume elsewhere and stop, all of it judged as in
every other run. After each round, at rest, what the processes and Redis hold is read; of all these
readings the last third must be what the second third was.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from redis.asyncio import Redis

from . import collecting
from .answers import scripted
from .oracle import Evidence, judge
from .plan import Plan, Topology, plan_of
from .readers import Lines, lines_to
from .run import allowed, play
from .world import World

COUNTED = Path(__file__).parent / "counted"
TOPOLOGY = Topology(nodes=2, workers=2, slots=8, fsync="everysec")
RETENTION_S = 60
LASTING = (b":route:", b":conversations")
"""Keys that keep a conversation's last epoch for 30 days: one conversation has two at most."""

WIDTH = 3
"""How many plans' clients make one round."""

FIRST_ROUNDS = 1
"""Rounds that are not looked at: pools fill, modules load."""

READINGS_MIN = 2
TELL_MAX_S = 10.0
LOOK_S = 0.02
SLACK = {"files": (0.0, 12), "tasks": (0.0, 12), "memory": (0.05, 8 << 20), "keys": (0.2, 300)}
"""By how much of itself, and by how much in all, a figure may grow: pools, allocators, rounds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What something holds at rest: ``figure`` of ``who``."""

    who: str
    figure: str
    value: int


def growth(readings: Sequence[Sequence[Reading]]) -> list[str]:
    """What grew from the second third of the readings to the last. Pure.

    With a few readings, from the first to the last of them.
    """
    third = max(1, len(readings) // 3)
    before, after = readings[-2 * third : -third] or readings[:1], readings[-third:]
    return [
        f"I7 {figure} of {who}: {was:,.0f}, then {now:,.0f}"
        for who, figure in {(one.who, one.figure) for one in readings[0]}
        if (now := _median(after, who, figure))
        > _bound(was := _median(before, who, figure), figure)
    ]


def _bound(was: float, figure: str) -> float:
    part, whole = SLACK[figure]
    return was + was * part + whole


def _median(readings: Sequence[Sequence[Reading]], who: str, figure: str) -> float:
    found = [
        one.value
        for reading in readings
        for one in reading
        if (one.who, one.figure) == (who, figure)
    ]
    return median(found or [0])


async def read_all(world: World, counts: Path) -> list[Reading]:
    """Files, tasks and memory of each process; keys and memory of Redis."""
    found = []
    for name, pid in world.pids.items():
        assert pid is not None, f"{name} has died"
        tasks = await _tasks_of(pid, counts)
        found += [
            Reading(name, "files", len(os.listdir(f"/proc/{pid}/fd"))),
            Reading(name, "tasks", tasks),
            Reading(name, "memory", _memory_of(pid)),
        ]
    async with world.db() as redis:
        keys = [key async for key in redis.scan_iter(count=1000)]
        passing = [key for key in keys if not any(part in key for part in LASTING)]
        found.append(Reading("redis", "keys", len(passing)))
        found.append(Reading("redis", "memory", (await redis.info("memory"))["used_memory"]))
    return found


def _memory_of(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _tasks_of(pid: int, counts: Path) -> int:
    told = counts / str(pid)
    told.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    async with asyncio.timeout(TELL_MAX_S):
        while not told.exists():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(LOOK_S)
    return int(told.read_text())


def churn_of(seed: int) -> Plan:
    """The clients of several plans on the soak's topology, without faults.

    Each round has conversations of its own, so that nobody reads what an earlier one has left; no
    keys are used, which live for a day.
    """
    plans = [plan_of(WIDTH * seed + number) for number in range(WIDTH)]
    return replace(
        plans[0],
        topology=TOPOLOGY,
        faults=(),
        asks=[
            replace(one, name=_apart(one.name, seed, number), key="")
            for number, plan in enumerate(plans)
            for one in plan.asks
        ],
        stops=[
            replace(one, name=_apart(one.name, seed, number))
            for number, plan in enumerate(plans)
            for one in plan.stops
        ],
        follows=[
            replace(one, name=_apart(one.name, seed, number))
            for number, plan in enumerate(plans)
            for one in plan.follows
        ],
    )


def _apart(name: str, seed: int, number: int) -> str:
    return name and f"{name}-{seed}-{number}"


async def _round(plan: Plan, world: World, lines: Lines) -> tuple[Evidence, list[str]]:
    """One round, judged."""
    evidence = Evidence()
    since_ms = await _now_ms(world)
    await play(plan, world, lines, evidence)
    evidence.leaks += await collecting.leaks(world, {}, until_compacted=False)
    evidence.sessions = await collecting.sessions(world, lines, scripted, since_ms=since_ms)
    return evidence, [f"seed {plan.seed}: {broken}" for broken in judge(evidence, allowed(plan))]


async def _now_ms(world: World) -> int:
    redis: Redis
    async with world.db() as redis:
        seconds, micros = await redis.time()
    return int(seconds * 1000 + micros // 1000)


async def soak(for_s: float, folder: Path, say: Callable[[str], None]) -> list[str]:
    """Churns for so long; what broke, and what grew."""
    counts = folder / "counts"
    counts.mkdir(parents=True)
    settings = {
        "PYTHONPATH": str(COUNTED),
        "CHAOS_COUNTS": str(counts),
        "REPLAY_RETENTION_S": str(RETENTION_S),
        "REPLAY_PLAIN_RETENTION_S": str(RETENTION_S),
    }
    broken: list[str] = []
    readings: list[list[Reading]] = []
    world = World(folder, TOPOLOGY, "scripted", **settings)
    async with world.running(), lines_to(world.nodes) as lines:
        began_s = time.monotonic()
        for seed in _while(lambda: time.monotonic() - began_s < for_s, readings):
            round_s = time.monotonic()
            evidence, found = await _round(churn_of(seed), world, lines)
            broken += found
            if seed > FIRST_ROUNDS:
                readings.append(await read_all(world, counts))
                say(_row(seed, evidence, time.monotonic() - round_s, readings[-1], found))
    return broken + growth(readings)


def _while(there_is_time: Callable[[], bool], readings: Sequence[object]) -> Iterator[int]:
    seed = 0
    while there_is_time() or len(readings) < READINGS_MIN:
        seed += 1
        yield seed


ROW = "{:>6} {:>9} {:>8} {:>12} {:>8} {:>8} {:>8} {:>10} {:>10}  {}"
HEAD = (
    *("round", "sessions", "streams", "bytes", "streams/s"),
    *("files", "tasks", "keys", "MiB", "result"),
)


def _row(
    seed: int, evidence: Evidence, took_s: float, reading: Sequence[Reading], found: list[str]
) -> str:
    def total(figure: str) -> int:
        return sum(one.value for one in reading if one.figure == figure)

    return ROW.format(
        seed,
        len(evidence.sessions),
        len(evidence.segments),
        evidence.bytes_checked,
        f"{len(evidence.segments) / took_s:.1f}",
        total("files"),
        total("tasks"),
        total("keys"),
        total("memory") >> 20,
        "; ".join(found) or "ok",
    )


def main() -> int:
    """The command line; 1 where something broke or grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--keep", type=Path, help="where its files go, and stay")
    asked = parser.parse_args()
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    print(ROW.format(*HEAD), flush=True)
    broken = asyncio.run(soak(60 * asked.minutes, folder, lambda row: print(row, flush=True)))
    print("\n".join(broken) or "nothing broke, and nothing grew")
    if not asked.keep:
        shutil.rmtree(folder)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
