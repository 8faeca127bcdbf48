"""What delivery costs without us: uvicorn and a few lines of raw ASGI. A companion.

    python -m tests.benchmarks.floor_server <Redis's URL>

``/timed``      each reader is a task that a timer in this process wakes with an event
``/live/<key>`` the same, woken by one hiredis pub/sub connection: no history, no offsets, no pulse
``/static/<n>`` n bytes in one body
``/burst/<n>``  n events to one reader, as fast as they go
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
import uvicorn
import uvloop

from api.protocol import KEEP_ALIVE_S
from tests.benchmarks.companion import serve
from tests.benchmarks.live_sessions import SLOTS, event

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Line:
    """Events on their way to one reader."""

    def __init__(self) -> None:
        self.events: deque[bytes] = deque()
        self.wake = asyncio.Event()

    def put(self, data: bytes) -> None:
        """One more."""
        self.events.append(data)
        self.wake.set()


class PubSub(asyncio.Protocol):
    """One connection to Redis; each channel has one reader."""

    def __init__(self) -> None:
        self.lines: dict[bytes, Line] = {}
        self.transport: Any = None
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if reply[0] == b"message" and (line := self.lines.get(reply[1])) is not None:
                line.put(reply[2].split(b"\n", 1)[1])

    def subscribe(self, channel: bytes, line: Line) -> None:
        """From now on its messages go to ``line``."""
        self.lines[channel] = line
        head = b"*2\r\n$9\r\nSUBSCRIBE\r\n"
        self.transport.write(b"%b$%d\r\n%b\r\n" % (head, len(channel), channel))


class FloorServer:
    """The application, and the events of its timer."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub
        self._timed: list[Line] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """See ASGI."""
        _, kind, *rest = scope["path"].split("/", 2)
        if kind == "static":
            await self._static(send, int(rest[0]))
            return
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        if kind == "burst":
            await self._burst(send, int(rest[0]))
            return
        line = Line()
        if kind == "live":
            self._pubsub.subscribe(unquote(rest[0]).encode(), line)
        else:
            self._timed.append(line)
        # uvicorn holds the headers back until the body begins; a comment is no event
        await send({"type": "http.response.body", "body": b":\n", "more_body": True})
        while True:
            while line.events:
                body = line.events.popleft()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            line.wake.clear()
            await line.wake.wait()

    async def _static(self, send: Send, size: int) -> None:
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": False})

    async def _burst(self, send: Send, count: int) -> None:
        body = event(0)
        for _ in range(count):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def emit(self, rounds: int, round_s: float) -> dict[str, float]:
        """One event to each reader of ``/timed`` in each round, in batches as workers make them."""
        lines = self._timed
        batches = [lines[first : first + SLOTS] for first in range(0, len(lines), SLOTS)]
        due_s = time.monotonic()
        for _ in range(rounds):
            for batch in batches:
                due_s += round_s / len(batches)
                data = event(time.monotonic_ns())
                for line in batch:
                    line.put(data)
                if (early_s := due_s - time.monotonic()) > 0:
                    await asyncio.sleep(early_s)
        return {"events": rounds * len(lines), "late_s": max(0.0, time.monotonic() - due_s)}


async def run(url: str) -> None:
    """The server, until nobody asks any more."""
    redis = urlsplit(url)
    loop = asyncio.get_running_loop()
    transport, pubsub = await loop.create_connection(PubSub, redis.hostname, redis.port)
    app = FloorServer(pubsub)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())

    async def port() -> int:
        """Where it listens, once it does."""
        while not server.started:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        bound: int = server.servers[0].sockets[0].getsockname()[1]
        return bound

    try:
        await serve({"port": port, "emit": app.emit})
    finally:
        transport.close()
        server.force_exit = server.should_exit = True
        await serving


if __name__ == "__main__":
    # Nobody looks whether readers have left; their tasks are alive at the end, and uvicorn tells.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
    uvloop.run(run(sys.argv[1]))
