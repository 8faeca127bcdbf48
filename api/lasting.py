"""Answers that last are sent outside of the routing that chose them.

A stream may last for minutes, and a node has thousands; the frames of a dozen wrappers around each
would cost more memory than the stream itself. So a route returns ``Lasting``, the wrappers return
too, and ``LastingAnswers``, near the outside, sends what was left with it.
"""

from __future__ import annotations

from typing import Protocol

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import TABLE, problem_response

_KEY = "replay.lasting"
_KNOWN = tuple(TABLE)


class Answer(Protocol):
    """What sends a whole answer. Raises what is wrong as long as nothing was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Lasting(Response):
    """What a route returns for ``answer`` to be sent later."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends nothing yet."""
        scope["state"][_KEY] = self._answer


class LastingAnswers:
    """Sends what a route has left, with nothing of the route still in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        before = {*scope, "state"}
        await self._app(scope, receive, send)
        answer: Answer | None = scope.get("state", {}).pop(_KEY, None)
        if answer is None:
            return
        for key in scope.keys() - before:
            del scope[key]
        try:
            await answer(scope, receive, send)
        except _KNOWN as error:
            await problem_response(error)(scope, receive, send)
