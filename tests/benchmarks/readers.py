"""Clients' side of a benchmark: thousands of HTTP readers that count events. A companion.

Raw asyncio protocols, so that two cores suffice for readers, node and Redis together. An event is
an empty line in the body; nothing else of it is parsed, but for the time in it, which every tenth
reader compares with its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from tests.benchmarks.companion import serve
from tests.benchmarks.http_socket import HEADERS_END
from tests.benchmarks.live_sessions import STAMP, STAMP_DIGITS
from tests.benchmarks.report import quantile

CONNECTED_AT_ONCE = 100
OPEN_MAX_S = 50.0
COUNT_MAX_S = 30.0
STAMPED_EVERY = 10
EVENT_END = b"\n\n"
OK = b"HTTP/1.1 200 "


class Count:
    """Events of one group of readers, and how long (seconds) those with a stamp were under way."""

    def __init__(self) -> None:
        self.events = 0
        self.delays_s: list[float] = []
        self.wanted = 0
        self.reached = asyncio.Event()

    def add(self, events: int) -> None:
        """So many more have come."""
        self.events += events
        if self.events >= self.wanted:
            self.reached.set()


class Reader(asyncio.Protocol):
    """One reader. ``opened`` is done once its status line has come."""

    def __init__(self, count: Count, path: str, number: int) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count = count
        self._path = path
        self._is_stamped = number % STAMPED_EVERY == 0
        self._head = b""
        self._last = b""

    def connection_made(self, transport: Any) -> None:
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self._head += data
            head, found, data = self._head.partition(HEADERS_END)
            if not found:
                return
            if head.startswith(OK):
                self.opened.set_result(None)
            else:
                self.opened.set_exception(ConnectionError(head.decode(errors="replace")))
        if self._is_stamped:
            self._stamp(data)
        # An event's end may come in two pieces; its last byte is kept for the next look.
        seen = self._last + data
        self._last = b"\n" if seen.endswith(b"\n") and not seen.endswith(EVENT_END) else b""
        self._count.add(seen.count(EVENT_END))

    def _stamp(self, data: bytes) -> None:
        at = data.rfind(STAMP)
        digits = data[at + len(STAMP) : at + len(STAMP) + STAMP_DIGITS]
        if at >= 0 and len(digits) == STAMP_DIGITS:
            self._count.delays_s.append((time.monotonic_ns() - int(digits)) / 1e9)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed"))


class Readers:
    """Groups of readers by name."""

    def __init__(self) -> None:
        self._counts: dict[str, Count] = {}
        self._transports: list[asyncio.BaseTransport] = []

    async def open(self, group: str, host: str, port: int, paths: Sequence[str]) -> int:
        """One reader a path; all have their status line when this returns."""
        count = self._counts.setdefault(group, Count())
        async with asyncio.timeout(OPEN_MAX_S):
            for first in range(0, len(paths), CONNECTED_AT_ONCE):
                some = paths[first : first + CONNECTED_AT_ONCE]
                made = [Reader(count, path, number) for number, path in enumerate(some)]
                await asyncio.gather(*(self._open(reader, host, port) for reader in made))
        return len(self._transports)

    async def _open(self, reader: Reader, host: str, port: int) -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: reader, host, port
        )
        self._transports.append(transport)
        await reader.opened

    async def expect(self, group: str, events: int) -> None:
        """Begins a count at nothing."""
        count = self._counts[group]
        count.events, count.wanted, count.delays_s = 0, events, []
        count.reached.clear()

    async def counted(self, group: str) -> dict[str, float]:
        """What came, once all has that is expected. Raises TimeoutError."""
        count = self._counts[group]
        async with asyncio.timeout(COUNT_MAX_S):
            await count.reached.wait()
        delays_s = count.delays_s or [0.0]
        return {
            "events": count.events,
            "delay_p50_ms": quantile(delays_s, 0.5) * 1000,
            "delay_p99_ms": quantile(delays_s, 0.99) * 1000,
        }

    async def serve(self) -> None:
        """Answers until nobody asks any more."""
        try:
            await serve({"open": self.open, "expect": self.expect, "counted": self.counted})
        finally:
            for transport in self._transports:
                transport.close()


if __name__ == "__main__":
    uvloop.run(Readers().serve())
