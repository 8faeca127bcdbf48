"""One TCP link that can be made to misbehave: reset, half-open, held, delayed, throttled.

A half-open connection is one whose peer has gone without a word: bytes enter it and none come out,
until one side gives up. Connections made later are whole.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
PIECE_BYTES = 16 * 1024


class Link:
    """A listening port, and what comes there goes to ``target``. Use ``async with``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.delay_s = 0.0
        self.bytes_per_s = 0.0

    async def __aenter__(self) -> Link:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def reset(self) -> None:
        """Ends every connection by RST, to both sides."""
        for connection in self._connections:
            connection.reset()

    def half_open(self) -> None:
        """Every connection there is goes silent, for ever and without an end."""
        for connection in self._connections:
            connection.is_silent = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a client that left, a target that is away, the end of the link
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.open.wait()
        there, here = await asyncio.open_connection(*self._target)
        connection = _Connection(self, (writer, here))
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(connection.carry(reader, here))
                group.create_task(connection.carry(there, writer))
        except* OSError:
            connection.reset()
        finally:
            self._connections.discard(connection)
            here.transport.abort()


class _Connection:
    """One connection through the link, both ways."""

    def __init__(self, link: Link, writers: tuple[asyncio.StreamWriter, ...]) -> None:
        self._link = link
        self._writers = writers
        self.is_silent = False

    def reset(self) -> None:
        for writer in self._writers:
            with suppress(OSError):
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, to its end."""
        link = self._link
        while data := await reader.read(PIECE_BYTES):
            await self._gate()
            if link.delay_s:
                await asyncio.sleep(link.delay_s)
            if link.bytes_per_s:
                await asyncio.sleep(len(data) / link.bytes_per_s)
            writer.write(data)
            await writer.drain()
        await self._gate()
        if writer.can_write_eof():
            writer.write_eof()

    async def _gate(self) -> None:
        """Passes when bytes may; a silent connection's never may."""
        await self._link.open.wait()
        if self.is_silent:
            await asyncio.Event().wait()
