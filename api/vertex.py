"""Vertex AI's contract for containers: a health route, and predictions that are our own routes.

Each instance of a prediction is a request to this very application, so that nothing is done here
that the routes do not do; none is streamed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Scope

from api import health, requests
from api.config import VertexSettings
from api.json_body import parse_json
from api.node import NodeDep
from api.problems import RequestInvalid, problem_of
from replay import frames

INSTANCES_MAX = 128
ENDLESS = frozenset({"/v1/streams/events"})
"""Routes whose answers end only when their client leaves."""

FORMAT = "@requestFormat"

OF_THE_WHOLE = frozenset({b"content-length", b"content-type", b"transfer-encoding"})
"""Headers that say something of the outer body."""

NAMING = frozenset({b"x-conversation-id", b"idempotency-key"})
"""Headers that one request alone may have: several instances would replace each other."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Format:
    """A route that an instance may ask for."""

    method: str
    path: str


def add_vertex(app: FastAPI, routers: Iterable[APIRouter], settings: VertexSettings) -> None:
    """Adds Vertex's routes to those of ``routers``. Raises ValueError where one is taken."""
    taken = set(_routes(routers))
    formats = formats_of(taken)

    async def predict(request: Request, node: NodeDep) -> Response:
        """The predictions of all instances, in their order; an error stands in its own place."""
        body = await requests.read_body(request, node.settings.body_bytes_max)
        instances = instances_of(parse_json(body))
        calls = [_predicted(app, request, formats, one, len(instances)) for one in instances]
        return JSONResponse({"predictions": await asyncio.gather(*calls)})

    wanted: list[tuple[str, str, Callable[..., Awaitable[Any]]]] = [
        ("POST", settings.predict_route, predict)
    ]
    if settings.health_route:
        wanted.append(("GET", settings.health_route, health.health))
    for method, path, endpoint in wanted:
        path = "/" + path.removeprefix("/")
        if (method, path) in taken:
            raise ValueError(f"Vertex's route {method} {path} is one of the node's own")
        app.add_api_route(path, endpoint, methods=[method], include_in_schema=False)
    logger.info("Vertex AI: predictions at %s", settings.predict_route)


def instances_of(body: Any) -> list[Any]:
    """The instances of a prediction's body. Raises RequestInvalid. Pure."""
    if not isinstance(body, dict):
        raise RequestInvalid("request body must be a JSON object")
    instances = body.get("instances")
    if not isinstance(instances, list):
        raise RequestInvalid("request body must include an array field named instances")
    if len(instances) > INSTANCES_MAX:
        raise RequestInvalid(f"instances array exceeds maximum size of {INSTANCES_MAX}")
    return instances


def formats_of(routes: Iterable[tuple[str, str]]) -> Mapping[str, Format]:
    """Methods and paths by what an instance calls them: the path, or its words as one. Pure."""
    found: dict[str, Format] = {}
    # What stands under /v1 comes first, and of two methods the one that takes a body.
    ranked = sorted(routes, key=lambda one: (not one[1].startswith("/v1/"), one[0] != "POST"))
    for method, path in ranked:
        if method in ("GET", "POST") and "{" not in path and path not in ENDLESS:
            for name in (path, one_word(path)):
                found.setdefault(name, Format(method, path))
    return found


def one_word(path: str) -> str:
    """``chatCompletions`` of ``/v1/chat/completions``. Pure."""
    first, *rest = re.split(r"[^A-Za-z0-9]+", path.removeprefix("/v1").strip("/"))
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _routes(routers: Iterable[APIRouter]) -> Iterator[tuple[str, str]]:
    """The methods and paths of routes."""
    for route in chain.from_iterable(router.routes for router in routers):
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                yield method, route.path


async def _predicted(
    app: ASGIApp, request: Request, formats: Mapping[str, Format], instance: Any, count: int
) -> Any:
    """What one instance comes to: an answer, or an error in llama.cpp's envelope."""
    try:
        wanted, body = asked(instance, formats)
        return await call(app, request, wanted, body, is_one=count == 1)
    except Exception as error:  # the root of this instance: the others go on
        if not isinstance(error, RequestInvalid):
            logger.exception("a prediction failed")
        return problem_of(error).body()


def asked(instance: Any, formats: Mapping[str, Format]) -> tuple[Format, bytes]:
    """The route that an instance means, and the body for it. Raises RequestInvalid. Pure."""
    if not isinstance(instance, dict):
        raise RequestInvalid("each instance must be a JSON object")
    name = instance.get(FORMAT)
    if not isinstance(name, str):
        raise RequestInvalid(f"each instance must include a string {FORMAT}")
    if name not in formats:
        raise RequestInvalid(f"no handler registered for {FORMAT}: {name[:100]}")
    if instance.get("stream"):
        logger.warning("a prediction is not streamed, though it asks for that")
    body = {key: value for key, value in instance.items() if key != FORMAT}
    return formats[name], frames.compact({**body, "stream": False}).encode()


async def call(app: ASGIApp, request: Request, wanted: Format, body: bytes, *, is_one: bool) -> Any:
    """What the application answers, as JSON where it is that. A client that leaves, leaves it."""
    parts: list[bytes] = []
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, None) or await request.receive()

    async def send(message: Message) -> None:
        parts.append(message.get("body", b""))

    await app(_scope(request, wanted, body, is_one=is_one), receive, send)
    answer = b"".join(parts)
    try:
        return json.loads(answer)
    except ValueError:
        return answer.decode("utf-8", "replace")


def _scope(request: Request, wanted: Format, body: bytes, *, is_one: bool) -> Scope:
    dropped = OF_THE_WHOLE if is_one else OF_THE_WHOLE | NAMING
    headers = [pair for pair in request.scope["headers"] if pair[0].lower() not in dropped]
    kept = ("type", "asgi", "http_version", "scheme", "client", "server")
    return {
        **{key: request.scope[key] for key in kept if key in request.scope},
        "method": wanted.method,
        "path": wanted.path,
        "raw_path": wanted.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            *headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "state": {},
    }
