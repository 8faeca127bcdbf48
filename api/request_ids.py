"""``request-id``: by which Anthropic's clients name a request when they ask about it. Pure ASGI."""

from __future__ import annotations

import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "request-id"
PATH = "/v1/messages"


def new_request_id() -> str:
    """An id of its own for each answer."""
    return "req_" + secrets.token_hex(12)


class RequestIds:
    """Gives an id to each answer below PATH that has none; an error has one in its body already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                if HEADER.encode() not in dict(headers):
                    headers.append((HEADER.encode(), new_request_id().encode()))
                message = {**message, "headers": headers}
            await send(message)

        is_named = scope["type"] == "http" and PATH in scope["path"]
        await self._app(scope, receive, named if is_named else send)
