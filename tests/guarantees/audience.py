"""Readers by the hundred, each coming back from its byte as often as it is cut."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.protocol.wire import STREAM, target

COME_BACK_WITHIN_S = 0.2
PATIENCE_S = 60.0


@dataclass
class Reader:
    """What one reader has got: its bytes, which node gave them, and when it was cut."""

    data: bytes = b""
    nodes: list[str] = field(default_factory=list)
    cuts_s: list[float] = field(default_factory=list)

    async def follow(self, address: Callable[[], str], name: str) -> None:
        """Reads to the session's end, asking for an address before each attempt."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self._read(address(), name):
                self.cuts_s.append(time.monotonic())
                await asyncio.sleep(random.uniform(0, COME_BACK_WITHIN_S))

    async def _read(self, url: str, name: str) -> bool:
        """Whether the answer ended cleanly."""
        where = urlsplit(url)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            stream, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                asked = target(STREAM, conv_id=name, from_=len(self.data))
                writer.write(f"GET {asked} HTTP/1.1\r\nHost: replay\r\n\r\n".encode())
                return await self._take(stream)
            finally:
                writer.close()
        return False

    async def _take(self, stream: asyncio.StreamReader) -> bool:
        head = (await stream.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        status = int(head[0].split()[1])
        if status == 503:
            return False
        assert status == 200, head
        self.nodes += [
            line[15:].strip() for line in head if line.lower().startswith("x-replay-node")
        ]
        while size := int(await stream.readuntil(b"\r\n"), 16):
            self.data += await stream.readexactly(size)
            await stream.readexactly(2)
        return True
