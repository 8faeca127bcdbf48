"""A TCP balancer on a thread: each connection goes to the first node alive, and is cut at will.

`BrowserContext.set_offline` does not end a response that is running, so connections are cut here,
on real sockets: with a reset, or with an end that looks clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

READ_BYTES = 65_536
CALL_LIMIT_S = 30.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing such a socket sends a reset."""

T = TypeVar("T")


class Balancer:
    """One address in front of several nodes. Use `with`; every method is safe from any thread."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = [(url.hostname, url.port) for url in map(urlsplit, nodes)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._is_refusing = False
        self.url = ""

    def __enter__(self) -> Balancer:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_LIMIT_S)
        self._loop.close()

    def reset(self) -> int:
        """Resets every connection to the browser; how many there were."""
        return self._call(self._cut(is_reset=True))

    def close_early(self) -> int:
        """Ends every connection to the browser as if its body were whole; how many there were."""
        return self._call(self._cut(is_reset=False))

    def refuse(self, refusing: bool) -> None:
        """Whether new connections are cut at once, as when the network is away."""
        self._is_refusing = refusing

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_LIMIT_S)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut(is_reset=True)
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*serving, return_exceptions=True)

    async def _cut(self, *, is_reset: bool) -> int:
        cut = list(self._clients)
        for client in cut:
            if is_reset:
                client.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE
                )
                client.transport.abort()
            else:
                client.close()
        return len(cut)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._clients.add(client)
        try:
            if not self._is_refusing:
                await self._join(reader, client)
        finally:
            self._clients.discard(client)
            client.close()

    async def _join(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        for host, port in self._nodes:
            try:
                node_reader, node = await asyncio.open_connection(host, port)
            except OSError:
                continue
            ways = [
                asyncio.create_task(copy(reader, node)),
                asyncio.create_task(copy(node_reader, client)),
            ]
            # When one side is gone there is nobody left to carry bytes for.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            node.close()
            return


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carries bytes one way until either side is gone."""
    with contextlib.suppress(ConnectionError):
        while data := await source.read(READ_BYTES):
            sink.write(data)
            await sink.drain()
