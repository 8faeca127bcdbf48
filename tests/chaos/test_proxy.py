"""A link carries bytes both ways, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from .proxy import Link

pytestmark = pytest.mark.anyio
LIMIT_S = 10.0
SILENT_S = 0.2


class Line:
    """A client's connection to an echo server, through the link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def echoes(self, data: bytes) -> bool:
        self.writer.write(data)
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readexactly(len(data)) == data

    async def is_silent(self) -> bool:
        try:
            async with asyncio.timeout(SILENT_S):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1000):
            writer.write(data)
    writer.close()


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Link(server.sockets[0].getsockname()[:2]) as link:
        yield link


@asynccontextmanager
async def line_through(link: Link) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


async def test_it_carries_bytes_and_ends(link: Link) -> None:
    async with line_through(link) as line:
        assert await line.echoes(b"one")
        line.writer.write_eof()
        async with asyncio.timeout(LIMIT_S):
            assert await line.reader.read() == b""


async def test_a_reset_ends_every_connection_and_none_to_come(link: Link) -> None:
    async with line_through(link) as line:
        assert await line.echoes(b"one")
        link.reset()
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(LIMIT_S):
                await line.reader.read()
    async with line_through(link) as line:
        assert await line.echoes(b"two")


async def test_a_half_open_connection_is_silent_for_ever_and_others_are_not(link: Link) -> None:
    async with line_through(link) as silent, line_through(link) as whole:
        assert await silent.echoes(b"one")
        link.half_open()
        silent.writer.write(b"two")
        assert await silent.is_silent()
        async with line_through(link) as later:
            assert await later.echoes(b"three")
        assert await whole.is_silent()


async def test_what_is_held_comes_later(link: Link) -> None:
    async with line_through(link) as line:
        assert await line.echoes(b"one")
        link.open.clear()
        line.writer.write(b"two")
        assert await line.is_silent()
        link.open.set()
        async with asyncio.timeout(LIMIT_S):
            assert await line.reader.readexactly(3) == b"two"


async def test_delays_and_rates_take_their_time(link: Link) -> None:
    loop = asyncio.get_running_loop()
    async with line_through(link) as line:
        link.delay_s = 0.1
        began_s = loop.time()
        assert await line.echoes(b"one")
        assert loop.time() - began_s > 0.2
        link.delay_s, link.bytes_per_s = 0.0, 1000.0
        began_s = loop.time()
        assert await line.echoes(bytes(200))
        assert loop.time() - began_s > 0.4
