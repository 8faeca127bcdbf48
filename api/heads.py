"""HEAD: what GET would answer, without the body. Pure ASGI.

The routes see a GET. Whoever sends the answer still sees the HEAD: the server, which keeps the
body back, and a stream, which would have no end (``Connection.wants_body``).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Has a HEAD routed as a GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
