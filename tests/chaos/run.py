"""One seed, from its plan to a verdict."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat

from . import collecting
from .answers import rehearsed, scripted
from .faults import Faults
from .oracle import Allowed, Evidence, judge
from .plan import Kind, Plan
from .readers import Lines, lines_to
from .workload import clients, look, look_on
from .world import Impossible, World

LOOK_S = 0.1
END_MAX_S = 90.0
"""By when every client must have its end, after the last fault: far beyond all that is promised."""

LOOKUP_MAX_S = 15.0
"""The same for one lookup at last."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one seed. ``skipped`` says why it could not be run here."""

    plan: Plan
    broken: list[str]
    sessions: int = 0
    readers: int = 0
    bytes_checked: int = 0
    refused: int = 0
    takeovers: int = 0
    took_s: float = 0.0
    skipped: str = ""


async def run(plan: Plan, folder: Path) -> Verdict:
    """Runs one plan; all its files are in ``folder``."""
    began_s = time.monotonic()
    evidence = Evidence()
    try:
        world = World(folder, plan.topology, plan.engine)
        async with world.running(), lines_to(world.nodes) as lines:
            is_script = plan.engine == "scripted"
            answer_of = scripted if is_script else await rehearsed(plan.asks, lines)
            await _live(plan, world, lines, evidence)
            evidence.sessions = await collecting.sessions(world, lines, answer_of)
    except Impossible as impossible:
        return Verdict(plan, [], skipped=str(impossible))
    broken = judge(evidence, allowed(plan))
    if broken:
        (folder / "evidence.txt").write_text(pformat(evidence, width=200))
    return Verdict(
        plan,
        broken,
        sessions=len(evidence.sessions),
        readers=len({segment.reader for segment in evidence.segments}),
        bytes_checked=evidence.bytes_checked,
        refused=len(evidence.refusals),
        takeovers=sum(session.attempts > 1 for session in evidence.sessions),
        took_s=time.monotonic() - began_s,
    )


async def _live(plan: Plan, world: World, lines: Lines, evidence: Evidence) -> None:
    """Clients and faults together; then until everything is at rest."""
    files_before = collecting.open_files(world)
    await play(plan, world, lines, evidence)
    await world.well()
    evidence.leaks += await collecting.leaks(
        world, files_before, until_compacted=plan.until_compacted
    )
    names = sorted({asked.name for asked in plan.asks if asked.name})
    for node in range(len(lines.nodes)):
        if not await _looked(names, node, lines, evidence):
            evidence.hung.append(f"lookup at node {node + 1}")


async def _looked(names: list[str], node: int, lines: Lines, evidence: Evidence) -> bool:
    """A look that takes 503 for "later": so a node answers while Redis may have forgotten."""
    last_s = asyncio.get_running_loop().time() + LOOKUP_MAX_S
    while not await look(names, node, lines, evidence):
        if asyncio.get_running_loop().time() > last_s:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def play(plan: Plan, world: World, lines: Lines, evidence: Evidence) -> None:
    """The plan's clients and faults, until every session and every client has its end."""
    faults = Faults(world)
    onlooker = asyncio.create_task(look_on(plan, lines, evidence))
    tasks = {asyncio.create_task(one): who for who, one in clients(plan, lines, evidence).items()}
    try:
        async with asyncio.TaskGroup() as group:
            for fault in plan.faults:
                group.create_task(faults.happen(fault))
        await _until_ended(world)
        _, late = await asyncio.wait(tasks, timeout=END_MAX_S)
        evidence.hung += [tasks[task] for task in late]
    finally:
        for task in (onlooker, *tasks):
            task.cancel()
        await asyncio.gather(onlooker, *tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()  # a client that failed by itself is a defect of this machine


async def _until_ended(world: World) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(END_MAX_S):
            while not await collecting.all_ended(world):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(LOOK_S)


def allowed(plan: Plan) -> Allowed:
    """What the plan excuses."""
    ends: set[tuple[str, str]] = set()
    kinds = {fault.kind for fault in plan.faults}
    if plan.worker_faults > 1:
        ends.add(("failed", "poison"))
    if Kind.FILL in kinds:
        ends.add(("failed", "storage"))
    if any("redis" in fault.target for fault in plan.faults):
        ends.add(("failed", "queue"))
    if plan.loses_data:
        ends.add(("lost", "log"))
    return Allowed(
        loses_data=plan.loses_data,
        ends=frozenset(ends),
        stopped_names=frozenset(stop.name for stop in plan.stops),
        evicted_names=frozenset(stop.name for stop in plan.stops if not stop.keep),
    )
