"""Loops that outlive an outage, and the heartbeat."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from node_harness import eventually
from redis.asyncio import Redis

from api.background import Heartbeat, supervised
from api.connection import Connections
from api.node import Presence
from replay.cluster import Directory
from replay.errors import LogUnavailable

pytestmark = pytest.mark.anyio


def failing(times: int, then: asyncio.Event) -> Callable[[], object]:
    """A loop that fails so often, and then stays."""
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs <= times:
            raise LogUnavailable("ping")
        then.set()
        await asyncio.Event().wait()

    return run


async def test_a_loop_is_run_again_and_an_outage_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recovered = asyncio.Event()
    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(supervised("loop", failing(2, recovered)))  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            await recovered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(caplog.records) == 1 and "loop" in caplog.text


async def test_a_node_is_known_while_its_heart_beats(redis: Redis) -> None:
    directory, presence = Directory(redis), Presence()
    heartbeat = Heartbeat(directory, "api-1-abc", Connections(), presence)
    beating = asyncio.create_task(heartbeat.run())
    await eventually(lambda: directory.has_node("api-1-abc"))
    beating.cancel()
    [record] = await directory.nodes()
    assert (record.id, record.readers, record.draining) == ("api-1-abc", 0, False)
    presence.draining = True
    assert heartbeat.record().draining
    with pytest.raises(asyncio.CancelledError):
        await beating
