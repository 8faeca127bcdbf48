"""A node dies or is told to go: nothing that a client can come back to is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import httpx
import pytest
from cluster_client import CHAT, Client, error_of, eventually, text_of
from session_records import recorded

pytestmark = pytest.mark.anyio

KILL, TERM = signal.SIGKILL, signal.SIGTERM


async def test_the_real_answer_of_a_killed_node_is_whole_at_the_other(
    real: Client, name: str
) -> None:
    words = "Tell me about the sea."
    async with real.posting(name, words, max_tokens=120, ignore_eos=True) as post:
        await post.has(2000)
        async with real.reading(name, node=1) as reader:
            await reader.has(1)
            killed = real.kill("api-1", KILL)
            got = await post.cut()
            assert await real.state(name, node=1) == "running"
            log = await reader.whole()
    assert log.startswith(got)
    assert got + (await real.read(name, node=1, from_=len(got))).content == log
    [found] = await real.lookup(name, node=1)
    assert (found["state"], found["reason"]) == ("completed", "length")
    await real.gone(killed)
    real.cluster.wait_ready()
    assert await real.log(name, node=0) == log


async def test_not_one_word_is_lost_or_said_twice(
    scripted: Client, name: str, answer_to: Callable[[str], str]
) -> None:
    words = f"{name} [[tokens=120 rate=60 seed=7]]"
    async with scripted.posting(name, words) as post:
        await post.has(3000)
        scripted.kill("api-1", KILL)
        got = await post.cut()
    rest = (await scripted.read(name, node=1, from_=len(got))).content
    assert text_of(got + rest) == answer_to(words)


async def test_the_shared_port_never_refuses_while_one_node_is_dead(
    scripted: Client, name: str
) -> None:
    await scripted.post(name, "[[tokens=3 rate=0]]", node=1)
    # What the kernel had already handed to the dying process is lost with it.
    await scripted.gone(scripted.kill("api-1", KILL))
    headers = {"Connection": "close"}

    async def is_well_again() -> bool:
        answer = await scripted.front.get(f"/v1/stream?conv_id={name}", headers=headers)
        assert answer.status_code == 200
        return bool(scripted.cluster.state["ready"])

    await eventually(is_well_again)


async def test_a_plain_answer_ends_with_its_node(scripted: Client, name: str) -> None:
    words = f"{name} [[tokens=100000 rate=20]]"
    async with scripted.posting(None, words) as post:
        await post.has(1)
        scripted.kill("api-1", KILL)
        await post.cut()
        record = await recorded(scripted.cluster, words, "stopped")
    assert record.reason == "disconnected"
    await scripted.idle(node=1)


async def test_a_node_that_is_told_to_go_is_unready_at_once_and_cuts_its_readers(
    scripted: Client, name: str, answer_to: Callable[[str], str]
) -> None:
    words = f"{name} [[tokens=320 rate=40 seed=7]]"  # twice as long as a node may take to go
    async with scripted.posting(name, words) as post:
        await post.has(2000)
        async with scripted.reading(name, node=0) as reader:
            await reader.has(2000)
            scripted.kill("api-1", TERM)
            ready = await eventually(lambda: unready(scripted.nodes[0]))
            assert (ready.status_code, error_of(ready)["reason"]) == (503, "draining")
            got, posted = await reader.cut(), await post.cut()
    for start in (got, posted):
        async with scripted.reading(name, node=1, from_=len(start)) as rest:
            assert text_of(start + await rest.whole()) == answer_to(words)


async def unready(node: httpx.AsyncClient) -> httpx.Response | None:
    """The node's word, once it is no longer ready."""
    answer = await node.get("/ready")
    return answer if answer.status_code != 200 else None


async def test_a_plain_answer_is_told_apart_from_its_end_when_its_node_goes(
    scripted: Client, name: str
) -> None:
    body = {"messages": [{"role": "user", "content": f"{name} [[tokens=1000 rate=20]]"}]}
    asked = asyncio.create_task(scripted.nodes[0].post(CHAT, json=body))
    await recorded(scripted.cluster, name, "running")
    scripted.kill("api-1", TERM)
    with pytest.raises(httpx.RemoteProtocolError):
        await asked
    assert (await recorded(scripted.cluster, name, "stopped")).reason == "disconnected"
