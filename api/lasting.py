"""Answers that last are sent outside of the routing that chose them.

A stream may last for minutes, and a node has thousands; the frames of a dozen wrappers around each
would cost more than the stream itself. So a route returns ``Lasting``, every wrapper returns too,
and the application sends what was left with it: its status line through the wrappers' ``send``,
which adds their headers, and its bytes past them.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.connection import CUT

_KEY = "replay.lasting"
_KEPT = (
    *("type", "method", "http_version", "path", "root_path"),
    *("query_string", "client", "extensions"),
)
"""What servers and answers still ask of a request when its routing is over."""


class Answer(Protocol):
    """What sends a whole answer, also where something is wrong."""

    def begin(self, start: Send) -> None:
        """Gives it the way for the status line."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI; ``send`` takes what follows the status line."""
        ...


class Lasting(Response):
    """What a route returns for ``answer`` to be sent later."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends nothing yet."""
        self._answer.begin(send)
        scope["state"][_KEY] = self._answer


class Application(FastAPI):
    """FastAPI, with nothing of the routing in memory while a lasting answer is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
            answer: Answer | None = scope.get("state", {}).pop(_KEY, None)
            if answer is not None:
                slim(scope)
                await answer(scope, receive, send)
        except asyncio.CancelledError:
            # The server ends, and has waited long enough. Its own word for that would be a 500, as
            # if something were wrong; a cut says that another node is to be asked.
            cut = scope.get("extensions", {}).get(CUT)
            if cut is None:
                raise
            cut()
            while (await receive())["type"] != "http.disconnect":
                pass


def slim(scope: Scope) -> None:
    """Leaves only what is still asked for; the server holds the scope as long as the request."""
    kept = {key: scope[key] for key in _KEPT if key in scope}
    scope.clear()
    scope.update(kept)
