"""Without X-Conversation-Id nobody can come back, so a request ends with its client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from cluster_client import Client
from session_records import asked_with, recorded

pytestmark = pytest.mark.anyio

CANCELLED_WITHIN_S = 10.0
"""It is promised within one second; the rest is for a machine that is busy with other tests."""


@pytest.mark.parametrize("stream", [True, False])
async def test_a_plain_answer_stops_when_its_client_leaves(
    scripted: Client, name: str, stream: bool
) -> None:
    words = f"{name} [[tokens=100000 rate=50]]"
    async with scripted.posting(None, words, stream=stream):
        await recorded(scripted.cluster, words, "running")
    record = await recorded(scripted.cluster, words, "stopped", CANCELLED_WITHIN_S)
    assert record.reason == "disconnected"
    await scripted.idle(CANCELLED_WITHIN_S)


async def test_a_real_plain_answer_stops_when_its_client_leaves(real: Client, name: str) -> None:
    async with real.posting(None, f"Tell me about {name}.", ignore_eos=True) as post:
        await post.has(1)
    left_s = time.monotonic()
    record = await recorded(real.cluster, name, "stopped", CANCELLED_WITHIN_S)
    assert record.reason == "disconnected"
    await real.idle(left_s + CANCELLED_WITHIN_S - time.monotonic())


@pytest.mark.parametrize("stream", [True, False])
async def test_a_queued_plain_request_leaves_the_queue_with_its_client(
    scripted: Client, name: str, stream: bool
) -> None:
    async with scripted.full():
        async with scripted.posting(None, name, stream=stream):
            await recorded(scripted.cluster, name, "queued")
        record = await recorded(scripted.cluster, name, "stopped", CANCELLED_WITHIN_S)
        assert record.reason == "disconnected"
        behind = scripted.posting(f"{name}-behind", "[[tokens=3 rate=0]]")
        async with behind:
            assert await scripted.place(f"{name}-behind") == 0
    await scripted.idle()


async def test_a_plain_prompt_is_not_even_read_on_once_its_client_left(
    scripted: Client, name: str
) -> None:
    words = f"{name} [[prefill_s=100]]"
    async with scripted.posting(None, words):
        await recorded(scripted.cluster, words, "running")
    await recorded(scripted.cluster, words, "stopped", CANCELLED_WITHIN_S)
    await scripted.idle(CANCELLED_WITHIN_S)


async def test_plain_requests_do_not_touch_each_other(
    scripted: Client, name: str, answer_to: Callable[[str], str]
) -> None:
    words = [f"{name} [[tokens=60 rate=60 seed={seed}]]" for seed in range(6)]
    answers = await asyncio.gather(
        *(scripted.post(None, one, node=i % 2) for i, one in enumerate(words))
    )
    texts = [one.json()["choices"][0]["message"]["content"] for one in answers]
    assert texts == [answer_to(one) for one in words]
    assert len(set(texts)) == len(words)
    records = [asked_with(scripted.cluster, one) for one in words]
    assert {record.state for record in records if record is not None} == {"completed"}
