"""A newer POST of a conversation takes the place of the one before, on any node."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from cluster_client import Client, end_of, eventually, text_of

pytestmark = pytest.mark.anyio

SLOW = "[[tokens=100000 rate=50]]"
REPLACED = {"state": "stopped", "reason": "replaced"}


async def test_a_newer_post_ends_the_older_and_no_reader_sees_a_byte_of_it(
    real: Client, name: str
) -> None:
    async with real.posting(name, "Tell me about the sea.", ignore_eos=True) as post:
        await post.has(2000)
        async with real.reading(name, node=1) as reader:
            await reader.has(2000)
            second = await real.post(name, "Hello", node=1, stream=True, max_tokens=20)
            log = await reader.whole()
            assert await post.whole() == log
            epoch = (await post.head()).headers["x-stream-epoch"]
            assert (await reader.head()).headers["x-stream-epoch"] == epoch
    assert end_of(log) == REPLACED
    assert second.headers["x-completion-id"].encode() not in log
    assert int(second.headers["x-stream-epoch"]) > int(epoch)
    for node in range(2):
        assert await real.log(name, node=node) == second.content
        first = await real.read(name, node=node, epoch=epoch)
        assert (first.status_code, first.content) == (200, log)
    await real.idle()


async def test_a_newer_post_ends_one_that_is_queued(scripted: Client, name: str) -> None:
    async with scripted.full(), scripted.posting(name, SLOW) as first:
        await scripted.reaches(name, "queued")
        async with scripted.posting(name, SLOW, node=1) as second:
            error = await first.refused(400)
            assert (error["state"], error["reason"]) == ("stopped", "replaced")
            await eventually(lambda: is_first(scripted, name))
            await scripted.stop(name)
            await second.refused(400)


async def is_first(client: Client, name: str) -> bool:
    """Whether the session is queued, and nobody before it: the one it replaced left no job."""
    [found] = await client.lookup(name)
    return (found["state"], found["queue_position"]) == ("queued", 0)


async def test_of_many_posts_at_once_one_is_left(scripted: Client, name: str) -> None:
    posts = [
        asyncio.create_task(scripted.post(name, SLOW, node=i % 2, stream=True)) for i in range(8)
    ]
    await eventually(lambda: all_but_one(posts))
    found = await eventually(lambda: speaks(scripted, name))
    assert (await scripted.stop(name, keep="true")).status_code == 204
    answers = await asyncio.gather(*posts)
    last = [one for one in answers if one.headers["x-stream-epoch"] == str(found["epoch"])]
    others = [one for one in answers if one not in last]
    assert [one.status_code for one in last] == [200]
    assert end_of(last[0].content) == {"state": "stopped", "reason": "client"}
    assert await scripted.log(name, node=1) == last[0].content
    assert {one.headers["x-stream-epoch"] for one in others} == {
        *(one.headers["x-stream-epoch"] for one in answers)
    } - {str(found["epoch"])}
    for one in others:
        replaced = one.json()["error"] if one.status_code == 400 else end_of(one.content)
        assert {key: replaced[key] for key in REPLACED} == REPLACED
    await scripted.idle()


async def all_but_one(posts: list[asyncio.Task[httpx.Response]]) -> bool:
    """Whether no more than one is still answered."""
    return sum(not post.done() for post in posts) == 1


async def speaks(client: Client, name: str) -> dict[str, Any] | None:
    """The session as lookup tells it, if it has said something."""
    [found] = await client.lookup(name)
    return found if found["total_bytes"] else None


async def test_models_share_the_conversation(scripted: Client, name: str) -> None:
    [model] = (await scripted.nodes[0].get("/v1/models")).json()["data"]
    async with scripted.posting(name, SLOW) as first:
        await first.has(1)
        second = await scripted.post(
            f"{name}::{model['id']}", "[[tokens=3 rate=0]]", node=1, model=model["id"], stream=True
        )
        assert end_of(await first.whole()) == REPLACED
    assert await scripted.log(name) == second.content
    assert text_of(second.content)
