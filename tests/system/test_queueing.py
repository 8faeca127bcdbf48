"""Eight slots, and what happens to the ninth: it is alive, it is told its place, it runs later."""

from __future__ import annotations

import asyncio
import re

import pytest
from cluster_client import Client, eventually, text_of

pytestmark = pytest.mark.anyio


async def test_the_ninth_is_alive_while_queued_and_runs_later(scripted: Client, name: str) -> None:
    words = "[[tokens=3 rate=0]]"
    async with scripted.full() as running:
        assert len(running) == 8
        async with scripted.posting(name, words, sse_ping_interval=1):
            await scripted.reaches(name, "queued")
            async with scripted.reading(name, node=1) as reader:
                assert (await reader.head()).headers["x-stream-state"] == "queued"
                waiting = await reader.has(2 * len(": queued 0\n\n"))
                assert re.fullmatch(rb"(: queued 0\n\n)+", waiting)
                assert (await scripted.lookup(name, node=1))[0]["queue_position"] == 0
                await scripted.stop(running.pop(), node=1)
                log = await reader.whole()
    assert log.startswith(waiting)
    assert log.endswith(b"data: [DONE]\n\n")
    assert await scripted.log(name) == log
    for offset in range(len(waiting) + 20):
        assert (await scripted.read(name, node=offset % 2, from_=offset)).content == log[offset:]


async def test_a_queued_session_outlives_its_client(scripted: Client, name: str) -> None:
    async with scripted.full():
        async with scripted.posting(name, "[[tokens=3 rate=0]]"):
            await scripted.reaches(name, "queued")
        assert await scripted.state(name, node=1) == "queued"
    assert text_of(await scripted.log(name, node=1))


async def test_the_queue_is_first_come_first_served(scripted: Client, name: str) -> None:
    names = [f"{name}-{i}" for i in range(4)]
    async with scripted.full() as running, asyncio.TaskGroup() as group:
        for i, one in enumerate(names):
            group.create_task(scripted.post(one, "[[tokens=2 rate=0]]", node=i % 2))
            assert await scripted.place(one, node=1) == i
        found = await scripted.lookup(*names, node=1)
        places = {one["conversation_id"]: one["queue_position"] for one in found}
        assert places == {one: place for place, one in enumerate(names)}
        await scripted.stop(running[0])
        await eventually(lambda: all_done(scripted, names))


async def all_done(client: Client, names: list[str]) -> bool:
    """Whether every one of the sessions has completed."""
    return all([await client.state(one) == "completed" for one in names])
