"""A node's patience with requests that come slowly, and the end of connections that are old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from node_harness import WAIT_S, NodeHarness, served_node

from api import protocol

pytestmark = pytest.mark.anyio

PATIENCE_S = 0.2
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/streams/lookup HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"


@asynccontextmanager
async def connected(
    node: NodeHarness,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of its own."""
    url = node.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Shortens one limit; the others stay as they are, far longer than a test."""

    def shorten(name: str, limit_s: float = PATIENCE_S) -> None:
        if name == "KEEP_ALIVE_S":
            monkeypatch.setattr(protocol, name, limit_s)
            return
        stage = {"HEAD_TIMEOUT_S": protocol._Stage.HEAD, "BODY_TIMEOUT_S": protocol._Stage.BODY}
        monkeypatch.setitem(protocol._LIMITS, stage[name], limit_s)

    return shorten


@pytest.mark.parametrize(
    ("limit", "sent"),
    [("KEEP_ALIVE_S", b""), ("HEAD_TIMEOUT_S", GET[:10]), ("BODY_TIMEOUT_S", POST)],
)
async def test_who_stalls_in_a_request_is_hung_up_on(
    impatient: Callable[[str], None], limit: str, sent: bytes
) -> None:
    impatient(limit)
    async with served_node() as node, connected(node) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b""


async def test_a_byte_now_and_then_is_not_a_head(impatient: Callable[[str], None]) -> None:
    impatient("HEAD_TIMEOUT_S")
    async with served_node() as node, connected(node) as (reader, writer):
        hung_up = asyncio.create_task(reader.read())
        writer.write(GET[:-2])
        async with asyncio.timeout(WAIT_S):
            while not hung_up.done():
                writer.write(b"a: b\r\n")
                await asyncio.sleep(PATIENCE_S / 20)
        with suppress(ConnectionResetError):
            assert await hung_up == b""


async def test_a_head_has_an_end() -> None:
    async with served_node() as node, connected(node) as (reader, writer):
        hung_up = asyncio.create_task(reader.read(1))
        async with asyncio.timeout(WAIT_S):
            writer.write(GET[:-2])
            while not hung_up.done():
                writer.write(b"a: " + 8_000 * b"b" + b"\r\n")
                await asyncio.sleep(0.01)
        with suppress(ConnectionResetError):
            assert await hung_up == b""


async def test_a_body_may_come_in_pieces_for_longer_than_one_may_take(
    impatient: Callable[[str, float], None],
) -> None:
    impatient("BODY_TIMEOUT_S", 2.0)  # a busy machine may pause for longer than PATIENCE_S
    async with served_node() as node, connected(node) as (reader, writer):
        writer.write(POST)
        for _ in range(5):
            await asyncio.sleep(0.5)  # the pace of a slow client is what is tried
            writer.write(20 * b" ")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")  # it is no JSON


async def test_an_answer_may_take_its_time(impatient: Callable[[str], None]) -> None:
    impatient("KEEP_ALIVE_S")
    impatient("HEAD_TIMEOUT_S")
    impatient("BODY_TIMEOUT_S")
    async with served_node() as node:
        posting = asyncio.create_task(node.post(name="c", stream=True))
        producer = await node.producer()
        await producer.say("hi")
        await asyncio.sleep(2 * PATIENCE_S)  # the silence is what is tried
        await producer.complete()
        assert (await posting).content.endswith(b"[DONE]\n\n")


async def test_an_old_connection_is_not_kept_alive() -> None:
    async with served_node(connection_age_s=2) as node:
        connection = []
        async with asyncio.timeout(WAIT_S):
            while "close" not in connection:
                answer = await node.http.get("/health")
                connection.append(answer.headers.get("connection", "keep"))
                await asyncio.sleep(0.02)
        assert connection[0] == "keep"


async def test_without_an_age_a_connection_is_kept_alive() -> None:
    async with served_node(connection_age_s=0) as node:
        assert "connection" not in (await node.http.get("/health")).headers
