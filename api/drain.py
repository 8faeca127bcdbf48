"""uvicorn's server, with an end of our own: unready at once, then cut the streams, then exit.

uvicorn closes its listeners first and waits for open streams before anything else; a stream that
lasts minutes would never let it go. So the drain happens before uvicorn hears of the end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.connection import CUT, Connections
from api.node import Presence

GRACE_S = 1
"""How long uvicorn waits for what is left after the drain."""

KEEP_ALIVE_S = 75
"""Longer than proxies keep idle connections, so that they are the ones who close them."""

BACKLOG = 2048

logger = logging.getLogger(__name__)


class NodeProtocol(HttpToolsProtocol):
    """HTTP/1.1, with a way for a response to abort its connection."""

    def on_message_begin(self) -> None:
        """Called by the parser before each request."""
        super().on_message_begin()
        extensions: dict[str, Any] = {CUT: self.transport.abort}
        self.scope["extensions"] = extensions

    def on_url(self, url: bytes) -> None:
        """Called by the parser; bytes that a client did not escape are escaped here."""
        if not url.isascii():
            url = b"".join(b"%%%02X" % byte if byte > 127 else bytes([byte]) for byte in url)
        super().on_url(url)


class NodeServer(uvicorn.Server):
    """Serves until SIGTERM, SIGINT or a refusal, then drains over at most ``drain_s``."""

    def __init__(self, app: FastAPI, *, node: str, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=NodeProtocol,
                loop="uvloop",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=[("Server", "replay-cluster"), ("X-Replay-Node", node)],
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._connections: Connections = app.state.connections
        self._presence: Presence = app.state.presence
        self._drain_s = drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal handler; a second Ctrl-C does not wait."""
        if self._presence.draining and sig == signal.SIGINT:
            self.force_exit = True
        self._presence.draining = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Asked ten times a second: whether it is time to end."""
        return await super().on_tick(counter) or bool(self._presence.refusal)

    async def main_loop(self) -> None:
        """Serves, then drains; uvicorn shuts the rest down after it."""
        await super().main_loop()
        self._presence.draining = True
        logger.info("draining %d responses", len(self._connections))
        for server in self.servers[1:]:
            server.close()  # the front: the kernel now gives its connections to other nodes
        try:
            async with asyncio.timeout(self._drain_s + GRACE_S):
                await self._connections.cut_all(self._drain_s)
        except TimeoutError:
            logger.warning("%d responses were not cut in time", len(self._connections))


def listening_sockets(
    host: str, ports: list[int], *, send_buffer_bytes: int, user_timeout_s: float
) -> list[socket.socket]:
    """One bound socket a port; all but the first are shared between processes.

    Accepted connections inherit the send buffer's size, which bounds what the kernel swallows for a
    reader that does not read, and the timeout, which finds out those that have silently gone.
    Raises OSError.
    """
    made = []
    for number, port in enumerate(ports):
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if number > 0:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = round(user_timeout_s * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listener.bind((host, port))
        made.append(listener)
    return made
