"""uvicorn's server, with an end of our own: unready at once, then cut the streams, then exit.

uvicorn closes its listeners first and waits for open streams before anything else; a stream that
lasts minutes would never let it go, and a load balancer that has not yet noticed would meet a
closed door. So notice and drain happen before uvicorn hears of the end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.connection import Connections
from api.node import Presence
from api.protocol import KEEP_ALIVE_S, NodeConfig, NodeProtocol

GRACE_S = 1
"""How long uvicorn waits for what is left after the drain."""

BACKLOG = 2048
TICK_S = 0.1

KEEPALIVE_IDLE_S = 15
KEEPALIVE_INTERVAL_S = 5
"""How the kernel asks a client to which nothing is sent; it gives up by its user timeout."""

logger = logging.getLogger(__name__)


class NodeServer(uvicorn.Server):
    """Serves until SIGTERM, SIGINT or a refusal; then ``notice_s`` more, unready; then drains."""

    def __init__(
        self,
        app: FastAPI,
        *,
        node: str,
        drain_s: float,
        notice_s: float = 0.0,
        connection_age_s: float = 0.0,
    ) -> None:
        self._connections: Connections = app.state.connections
        self._presence: Presence = app.state.presence
        self._notice_s = notice_s
        self._drain_s = drain_s
        super().__init__(
            NodeConfig(
                app,
                presence=self._presence,
                age_s=connection_age_s,
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
        leaving = asyncio.create_task(self._leave(), name="drain")
        while not (leaving.done() or self.force_exit):
            await asyncio.wait([leaving], timeout=TICK_S)
        leaving.cancel()
        await asyncio.wait([leaving])

    async def _leave(self) -> None:
        for server in self.servers[1:]:
            server.close()  # the front: the kernel now gives its connections to other nodes
        # A stream that were cut before the load balancer knows would come back to this node.
        await asyncio.sleep(self._notice_s)
        self._presence.closed = True
        logger.info("draining %d responses", len(self._connections))
        await self._connections.cut_all(self._drain_s)


def listening_sockets(
    host: str, ports: list[int], *, send_buffer_bytes: int, user_timeout_s: float
) -> list[socket.socket]:
    """One bound socket a port; all but the first are shared between processes.

    Accepted connections inherit the send buffer's size, which bounds what the kernel swallows for a
    reader that does not read, and the timeout and the kernel's own questions, which find out those
    that have silently gone.
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
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        listener.bind((host, port))
        made.append(listener)
    return made
