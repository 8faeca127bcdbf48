"""HTTP/1.1 as a node speaks it: uvicorn's protocol, with limits on how long a request may take.

It also lets a response abort its connection, and ends connections that are old, so that clients
spread anew over the nodes of a load balancer.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.connection import CUT, lifetime
from api.node import Presence

KEEP_ALIVE_S = 75
"""Longer than proxies keep idle connections, so that they are the ones who close them."""

HEAD_TIMEOUT_S = 10.0
"""How long the head of a request may take in all."""

BODY_TIMEOUT_S = 30.0
"""How long the next piece of a body may take; a phone's upload may stall for a while."""

HEAD_BYTES_MAX = 64 * 1024


class NodeConfig(uvicorn.Config):
    """uvicorn's settings, and what ``NodeProtocol`` wants to know of its node."""

    def __init__(self, app: Any, *, presence: Presence, age_s: float, **more: Any) -> None:
        super().__init__(app, **more)
        self.presence = presence
        self.age_s = age_s


class _Stage(Enum):
    """What of a request is under way."""

    NONE = 0
    HEAD = 1
    BODY = 2


class NodeProtocol(HttpToolsProtocol):
    """One client's connection. Owned by the event loop, which calls all of its methods."""

    def __init__(self, config: NodeConfig, *args: Any, **more: Any) -> None:
        super().__init__(config, *args, **more)
        self._presence = config.presence
        self._old_at = self.loop.time() + lifetime(config.age_s)
        self._stage = _Stage.NONE
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._close_in(KEEP_ALIVE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._close_in(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._stage
        super().data_received(data)
        if before is self._stage is _Stage.HEAD:
            # Not from piece to piece: a client that sends a byte now and then is late all the same.
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.close()
            return
        self._close_in(_LIMITS[self._stage])

    def _close_in(self, limit_s: float | None) -> None:
        """Ends the connection after this time, unless it is called again before; None: never."""
        if self._timer is not None:
            self._timer.cancel()
        closing = self.transport.close
        self._timer = None if limit_s is None else self.loop.call_later(limit_s, closing)

    def on_message_begin(self) -> None:
        """Called by the parser before each request."""
        super().on_message_begin()
        extensions: dict[str, Any] = {CUT: self.transport.abort}
        self.scope["extensions"] = extensions
        self._stage = _Stage.HEAD
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Called by the parser; bytes that a client did not escape are escaped here."""
        if not url.isascii():
            url = b"".join(b"%%%02X" % byte if byte > 127 else bytes([byte]) for byte in url)
        super().on_url(url)

    def on_headers_complete(self) -> None:
        """Called by the parser; the answer of a node or connection that is to go says so."""
        super().on_headers_complete()
        self._stage = _Stage.BODY
        if self._presence.draining or self.loop.time() > self._old_at:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Called by the parser after each request."""
        super().on_message_complete()
        self._stage = _Stage.NONE


_LIMITS = {_Stage.NONE: None, _Stage.HEAD: HEAD_TIMEOUT_S, _Stage.BODY: BODY_TIMEOUT_S}
