"""Any byte of an answer of the real model is good at any node, finished or live."""

from __future__ import annotations

import http.client
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest
from cluster_client import Client, text_of

pytestmark = pytest.mark.anyio

LIVE_READERS = 50


def wrong_offsets(url: str, name: str, log: bytes, offsets: Iterable[int]) -> list[int]:
    """The offsets at which the node does not replay the rest of the log."""
    node = http.client.HTTPConnection(urlsplit(url).netloc)
    wrong = []
    for offset in offsets:
        node.request("GET", f"/v1/stream?conv_id={name}&from={offset}")
        response = node.getresponse()
        if (response.read(), response.status) != (log[offset:], 200):
            wrong.append(offset)
    node.close()
    return wrong


@pytest.mark.guarantee("T18")
async def test_every_byte_of_a_finished_answer_is_good_at_every_node(
    real: Client, name: str
) -> None:
    posted = await real.post(name, "Tell me about the sea.", stream=True, max_tokens=20)
    log = posted.content
    with ThreadPoolExecutor(len(real.nodes)) as pool:
        wrong = [
            pool.submit(wrong_offsets, url, name, log, range(first, len(log) + 1, len(real.nodes)))
            for first, url in enumerate(real.cluster.nodes)
        ]
        assert [one.result() for one in wrong] == [[], []]
    assert len(text_of(log)) > 40


async def test_fifty_bytes_of_a_live_answer_are_good_at_every_node(real: Client, name: str) -> None:
    choice = random.Random(name)
    async with AsyncExitStack() as stack:
        posting = real.posting(name, "Tell me about the sea.", max_tokens=200, ignore_eos=True)
        post = await stack.enter_async_context(posting)
        readers = []
        for number in range(LIVE_READERS):
            log = await post.grows()
            offset = choice.randint(0, len(log))
            reading = real.reading(name, node=number % 2, from_=offset)
            readers.append((offset, await stack.enter_async_context(reading)))
        assert await real.state(name) == "running"
        log = await post.whole()
        for offset, reader in readers:
            assert log[:offset] + await reader.whole() == log, offset
    assert log.endswith(b"data: [DONE]\n\n")


async def test_a_chain_of_resumes_over_the_nodes_is_the_whole_answer(
    real: Client, name: str
) -> None:
    async with real.posting(name, "Tell me about the sea.", max_tokens=80, ignore_eos=True) as post:
        await post.has(1)
        got, node = b"", 1
        while not got.endswith(b"data: [DONE]\n\n"):
            async with real.reading(name, node=node, from_=len(got)) as reader:
                got += await reader.grows()
            node = 1 - node
        assert got == await post.whole()
