"""The only worker is killed in the middle of an answer."""

from __future__ import annotations

import time

import pytest
from cluster_client import Client, end_of, events

pytestmark = pytest.mark.anyio

ORPHAN_LIMIT_S = 10.0
"""A lease of 4 s, half of one more for the second look, and a sweep on either side."""


async def test_an_answer_whose_worker_died_ends_as_lost_and_new_ones_work(
    real: Client, name: str
) -> None:
    words = "Tell me about the sea."
    async with real.posting(name, words, max_tokens=2000, ignore_eos=True) as post:
        await post.has(1)
        async with real.reading(name, node=1) as reader:
            await reader.has(1)
            killed = real.kill("worker-1")
            killed_s = time.monotonic()
            log = await post.whole()
            assert time.monotonic() - killed_s < ORPHAN_LIMIT_S
            assert await reader.whole() == log
    assert end_of(log) == {"state": "lost", "reason": "orphan"}
    assert events(log)[-1]["error"]["code"] == 500
    assert b"[DONE]" not in log
    [found] = await real.lookup(name, node=1)
    assert (found["state"], found["reason"]) == ("lost", "orphan")
    assert await real.log(name, node=1) == log
    await real.gone(killed)
    real.cluster.wait_ready()
    again = await real.post(name, words, node=1, max_tokens=3)
    assert again.json()["usage"]["completion_tokens"] == 3
    await real.idle()
