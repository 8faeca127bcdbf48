"""A stop at the other node reaches a session wherever it is, and says why afterwards."""

from __future__ import annotations

import asyncio

import pytest
from cluster_client import Client, end_of, error_of

pytestmark = pytest.mark.anyio

SLOW = "[[tokens=100000 rate=50]]"
STOPPED = {"state": "stopped", "reason": "client"}


async def test_a_stop_at_the_other_node_ends_a_real_answer(real: Client, name: str) -> None:
    async with real.posting(name, "Tell me about the sea.", ignore_eos=True) as post:
        await post.has(2000)
        async with real.reading(name, node=1) as reader:
            await reader.has(1)
            stopped = await real.stop(name, node=1)
            assert stopped.status_code == 204
            log = await post.whole()
            assert await reader.whole() == log
    assert stopped.headers["x-stream-state"] == "stopped"
    assert stopped.headers["x-stream-size"] == str(len(log))
    assert end_of(log) == STOPPED
    assert b"[DONE]" not in log
    await real.idle()
    await gone(real, name)


async def gone(client: Client, name: str) -> None:
    """After a stop: 404 with the reason at every node, nothing to look up, and a stop is 204."""
    for node in range(len(client.nodes)):
        read = await client.read(name, node=node)
        assert read.status_code == 404
        assert "stopped (client)" in error_of(read)["reason"]
        assert await client.lookup(name, node=node) == []
        assert (await client.stop(name, node=node)).status_code == 204


async def test_a_stop_is_good_for_what_never_was(scripted: Client, name: str) -> None:
    for _ in range(2):
        assert (await scripted.stop(name, node=1)).status_code == 204
    assert (await scripted.read(name)).status_code == 404


@pytest.mark.parametrize("stream", [True, False])
async def test_a_queued_session_is_stopped_at_once(
    scripted: Client, name: str, stream: bool
) -> None:
    async with scripted.full():
        async with scripted.posting(name, SLOW, stream=stream) as post:
            await scripted.reaches(name, "queued")
            assert (await scripted.stop(name, node=1)).status_code == 204
            error = await post.refused(400)
        assert (error["state"], error["reason"]) == ("stopped", "client")
        await gone(scripted, name)
    await scripted.idle()


async def test_a_prefilling_session_is_stopped_at_once(scripted: Client, name: str) -> None:
    async with scripted.posting(name, "[[prefill_s=100]]") as post:
        found = await scripted.reaches(name, "running")
        assert found["total_bytes"] == 0
        assert (await scripted.stop(name, node=1)).status_code == 204
        error = await post.refused(400)
    assert (error["state"], error["reason"]) == ("stopped", "client")
    await scripted.idle()
    await gone(scripted, name)


async def test_a_stop_that_keeps_leaves_what_was_said(scripted: Client, name: str) -> None:
    async with scripted.posting(name, SLOW) as post:
        await post.has(2000)
        stopped = await scripted.stop(name, node=1, keep="true")
        log = await post.whole()
    assert (stopped.status_code, stopped.headers["x-stream-size"]) == (204, str(len(log)))
    for node in range(2):
        assert await scripted.log(name, node=node) == log
        assert (await scripted.read(name, node=node, from_=100)).content == log[100:]
    [found] = await scripted.lookup(name)
    assert (found["state"], found["reason"], found["total_bytes"]) == (
        "stopped",
        "client",
        len(log),
    )
    assert end_of(log) == STOPPED
    assert (await scripted.stop(name)).status_code == 204
    assert (await scripted.read(name, node=1)).status_code == 404


async def test_a_finished_session_is_evicted(scripted: Client, name: str) -> None:
    log = (await scripted.post(name, "[[tokens=3 rate=0]]", stream=True)).content
    stopped = await scripted.stop(name, node=1)
    assert (stopped.headers["x-stream-state"], stopped.headers["x-stream-size"]) == (
        "completed",
        str(len(log)),
    )
    read = await scripted.read(name)
    assert (read.status_code, error_of(read)["reason"]) == (404, "completed (stop) and evicted")


async def test_a_stop_of_a_replaced_epoch_leaves_the_current_one(
    scripted: Client, name: str
) -> None:
    await scripted.post(name, "[[tokens=3 rate=0]]")
    [first] = await scripted.lookup(name)
    log = (await scripted.post(name, "[[tokens=4 rate=0]]", stream=True)).content
    stopped = await scripted.stop(name, node=1, epoch=first["epoch"])
    assert stopped.status_code == 409
    assert await scripted.log(name) == log


async def test_stops_from_everywhere_agree(scripted: Client, name: str) -> None:
    async with scripted.posting(name, SLOW) as post:
        await post.has(1000)
        stops = await asyncio.gather(*(scripted.stop(name, node=i % 2) for i in range(20)))
        assert {stop.status_code for stop in stops} == {204}
        assert end_of(await post.whole()) == STOPPED
    await gone(scripted, name)


async def test_nothing_is_said_after_the_answer_to_a_stop(scripted: Client, name: str) -> None:
    async with scripted.posting(name, "[[tokens=100000 rate=0]]") as post:
        await post.has(10_000)
        stopped = await scripted.stop(name, node=1, keep="true")
        size = int(stopped.headers["x-stream-size"])
        assert len(await scripted.log(name)) == size
        await scripted.idle()
        assert len(await post.whole()) == len(await scripted.log(name)) == size
