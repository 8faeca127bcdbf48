"""What a node does beside answering: each a loop that an outage of Redis must not end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from api.build import build_info
from api.connection import Connections
from api.node import Presence
from replay.cluster import HEARTBEAT_S, Directory, NodeRecord
from replay.errors import LogUnavailable

RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0
RECOVERED_S = 15.0
"""A loop that ran so long has recovered (a timeout is shorter); its next failure is told again."""

CUT_TICK_S = 1.0

logger = logging.getLogger(__name__)


async def supervised(name: str, run: Callable[[], Awaitable[object]]) -> NoReturn:
    """Runs a loop again and again until it is cancelled; one line for each outage."""
    pause_s = RETRY_MIN_S
    while True:
        started_s = time.monotonic()
        try:
            await run()
        except Exception as error:  # a task root: whatever it was, the node lives on
            if time.monotonic() - started_s > RECOVERED_S:
                pause_s = RETRY_MIN_S
            if pause_s == RETRY_MIN_S:
                known = isinstance(error, LogUnavailable)
                logger.warning("%s: %s, trying again", name, error, exc_info=not known)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_MAX_S)


class Heartbeat:
    """Keeps this node's record alive; with it live its plain sessions."""

    def __init__(
        self, directory: Directory, node_id: str, connections: Connections, presence: Presence
    ) -> None:
        self._directory = directory
        self._node_id = node_id
        self._connections = connections
        self._presence = presence
        self._started_ms = time.time_ns() // 1_000_000

    def record(self) -> NodeRecord:
        """The node as it is now."""
        return NodeRecord(
            id=self._node_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_ms=self._started_ms,
            build=build_info(),
            readers=len(self._connections),
            draining=self._presence.draining,
        )

    async def run(self) -> NoReturn:
        """Beats until it is cancelled. Raises LogUnavailable."""
        while True:
            await self._directory.beat_node(self.record())
            await asyncio.sleep(HEARTBEAT_S)


async def cut_overdue(connections: Connections, timeout_s: float) -> NoReturn:
    """Cuts, until it is cancelled, every client that takes nothing for so long, and the old."""
    while True:
        await asyncio.sleep(CUT_TICK_S)
        if count := connections.cut_slow(timeout_s):
            logger.info("cut %d slow readers", count)
        connections.cut_old()
