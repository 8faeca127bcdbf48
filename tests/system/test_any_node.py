"""What was asked at one node is read, found and folded at the other, by the real model."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from cluster_client import Client, events, eventually, text_of

pytestmark = pytest.mark.anyio

SEA = "Tell me about the sea."


async def test_an_answer_is_read_elsewhere_while_it_runs_and_after(real: Client, name: str) -> None:
    async with real.posting(name, SEA, max_tokens=60, ignore_eos=True) as post:
        await post.has(1)
        async with real.reading(name, node=1) as reader:
            assert (await reader.head()).headers["x-stream-state"] == "running"
            log = await post.whole()
            assert await reader.whole() == log
    after = await real.read(name, node=1)
    assert (after.status_code, after.content) == (200, log)
    assert after.headers["x-stream-state"] == "completed"
    assert after.headers["x-replay-node"] == "api-2"
    [found] = await real.lookup(name, node=1)
    assert (found["state"], found["reason"], found["total_bytes"]) == (
        "completed",
        "length",
        len(log),
    )


async def test_a_whole_answer_is_the_fold_of_what_is_streamed(real: Client, name: str) -> None:
    answer = (await real.post(name, SEA, max_tokens=30)).json()
    log = await real.log(name, node=1)
    assert answer["choices"][0]["message"]["content"] == text_of(log)
    assert answer["usage"] == events(log)[-1]["usage"]
    assert answer["usage"]["completion_tokens"] == 30


async def test_a_whole_answer_whose_client_left_can_be_fetched_later(
    real: Client, name: str
) -> None:
    asked = asyncio.create_task(real.post(name, SEA, max_tokens=60, ignore_eos=True))
    await eventually(lambda: real.lookup(name))
    asked.cancel()
    await asyncio.wait([asked])
    assert asked.cancelled()
    log = await real.log(name, node=1)
    assert events(log)[-1]["usage"]["completion_tokens"] == 60
    assert (await real.state(name)) == "completed"


async def test_the_nodes_share_one_port(real: Client, name: str) -> None:
    headers = {"X-Conversation-Id": name, "Connection": "close"}
    body = {"messages": [{"role": "user", "content": SEA}], "stream": True, "max_tokens": 5}
    posted = await real.front.post("/v1/chat/completions", headers=headers, json=body)
    nodes = set()

    async def both() -> bool:
        read = await real.front.get(
            "/v1/stream", params={"conv_id": name}, headers={"Connection": "close"}
        )
        assert read.content == posted.content
        nodes.add(read.headers["x-replay-node"])
        return len(nodes) == 2

    await eventually(both)


@pytest.mark.parametrize("tokens", [0, 1])
async def test_an_answer_of_one_chunk_or_none_is_an_answer(
    real: Client, name: str, tokens: int
) -> None:
    async with real.posting(name, SEA, max_tokens=tokens) as post:
        log = await post.whole()
    role, *said, finish = events(log)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert len(said) == tokens
    assert finish["choices"][0]["finish_reason"] == "length"
    assert log.endswith(b"data: [DONE]\n\n")
    for offset in (0, 1, len(log) - 1, len(log)):
        read = await real.read(name, node=1, from_=offset)
        assert (read.status_code, read.content) == (200, log[offset:])
    whole = (await real.post(name, SEA, max_tokens=tokens, node=1)).json()
    assert whole["usage"]["completion_tokens"] == tokens
    assert whole["choices"][0]["message"]["content"] == text_of(log)


async def test_eight_conversations_stream_at_once(real: Client, name: str) -> None:
    names = [f"{name}-{i}" for i in range(8)]
    async with AsyncExitStack() as stack:
        posts = []
        for i, one in enumerate(names):
            words = f"Tell me about the number {i}."
            posting = real.posting(one, words, node=i % 2, max_tokens=70, ignore_eos=True)
            posts.append(await stack.enter_async_context(posting))
        for post in posts:
            await post.has(1)
        assert [one["state"] for one in await real.lookup(*names)] == ["running"] * 8
        logs = [await post.whole() for post in posts]
    for i, log in enumerate(logs):
        assert await real.log(names[i], node=1 - i % 2) == log
    assert len({text_of(log) for log in logs}) == 8
