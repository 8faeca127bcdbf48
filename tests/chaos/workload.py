"""Runs a plan's clients against a world, and looks on from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx

from .oracle import Evidence, Sighting, StopReply
from .plan import Plan, Stop
from .readers import PAUSE_S, RETRIED, STREAM, Lines, ask, follow

LOOKUP = "/v1/streams/lookup"
LOOK_S = 0.5


def clients(plan: Plan, lines: Lines, evidence: Evidence) -> dict[str, Coroutine[Any, Any, None]]:
    """Every client of the plan, by who it is."""
    made: dict[str, Coroutine[Any, Any, None]] = {}
    for number, asked in enumerate(plan.asks):
        who = f"post-{number}"
        made[who] = ask(asked, who, lines, evidence)
    for number, followed in enumerate(plan.follows):
        who = f"reader-{number}"
        made[who] = follow(followed, who, lines, evidence)
    for number, stopped in enumerate(plan.stops):
        made[f"stop-{number}"] = stop(stopped, lines, evidence)
    return made


async def stop(stop: Stop, lines: Lines, evidence: Evidence) -> None:
    """One DELETE, asked again at the next node until one has answered."""
    await asyncio.sleep(stop.at_s)
    params = {"conv_id": stop.name, **({"keep": "true"} if stop.keep else {})}
    node = stop.node
    while True:
        try:
            answer = await lines.http.delete(lines.url(node, STREAM), params=params)
            if answer.status_code not in RETRIED:
                break
        except httpx.TransportError:
            pass  # it may have happened, and may be asked again
        await asyncio.sleep(PAUSE_S)
        node += 1
    told = answer.headers
    evidence.stops.append(
        StopReply(
            stop.name,
            stop.keep,
            int(told.get("X-Stream-Epoch", 0)),
            told.get("X-Stream-State", ""),
            int(told.get("X-Stream-Size", 0)),
        )
    )


async def look_on(plan: Plan, lines: Lines, evidence: Evidence) -> None:
    """Notes what lookup tells of all conversations, at one node after another, for ever."""
    names = sorted({asked.name for asked in plan.asks if asked.name})
    node = 0
    while True:
        await asyncio.sleep(LOOK_S)
        node += 1
        await look(names, node, lines, evidence)


async def look(names: list[str], node: int, lines: Lines, evidence: Evidence) -> bool:
    """One look at one node; whether it answered."""
    try:
        url = lines.url(node, LOOKUP)
        answer = await lines.http.post(url, json={"conversation_ids": names})
    except httpx.TransportError:
        return False
    if answer.status_code != 200:
        return False
    for one in answer.json():
        evidence.sightings.append(
            Sighting(
                f"api-{node % len(lines.nodes) + 1}",
                one["conversation_id"],
                one["completion_id"],
                one["epoch"],
                one["state"],
                one["reason"],
                one["total_bytes"],
            )
        )
    return True
