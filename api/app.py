"""The composition root: what a node is made of, in which order it starts and ends.

``create_app`` wires routes and middleware; ``open_node`` opens what they need. A test brings a
node of its own.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect

from api import (
    absent,
    adapters,
    anthropic,
    control,
    docs,
    embeddings,
    feed,
    health,
    links,
    models,
    native,
    openai,
    props,
    responses,
    slots,
    stream,
    tokens,
    webui,
)
from api.admission import Admission
from api.auth import Auth
from api.background import Heartbeat, cut_overdue, supervised
from api.build import build_info
from api.catalog import Catalog
from api.config import ApiSettings, VertexSettings
from api.connection import Connections
from api.dispatch import ArqQueue, JobQueue, position_of
from api.heads import HeadAsGet
from api.inbox import Inbox
from api.keyring import Keyring
from api.lasting import Application
from api.links import Signer
from api.node import Node, Presence
from api.openapi import describe
from api.problems import TABLE, NothingThere, problem_response, route_path
from api.request_ids import RequestIds
from api.vertex import add_vertex
from replay import frames
from replay.adapter_scales import RedisAdapterScales
from replay.cluster import Directory
from replay.compaction import Compactor
from replay.errors import LogUnavailable, RedisUnfit
from replay.identity import SessionRef
from replay.inspection import Inspector
from replay.log_values import Look
from replay.recovery import Recovery
from replay.redis_log import RedisLog
from replay.redis_plane import Client, connect, connect_queue
from replay.redis_policy import START_S, check_policies
from replay.subscription import OnMessage, OnReset, Subscription
from replay.sweeper import Sweeper
from replay.tailer import Tailer

LEAVE_TIMEOUT_S = 0.5
ID_CHARACTERS = 8

EXPOSED_HEADERS = (
    "X-Conversation-Id",
    "X-Stream-Epoch",
    "X-Stream-Offset",
    "X-Stream-State",
    "X-Stream-Size",
    "X-Completion-Id",
    "X-Replay-Node",
    "Request-Id",
    "Retry-After",
)
METHODS = ("GET", "POST", "DELETE", "OPTIONS")
LOCALHOST = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")

ROUTED = (
    openai,
    native,
    control,
    anthropic,
    responses,
    stream,
    links,
    feed,
    tokens,
    embeddings,
    models,
    props,
    slots,
    adapters,
    health,
    absent,
)
"""The modules that have routes."""

OpenNode = Callable[[ApiSettings, Connections, Presence], AbstractAsyncContextManager[Node]]


def create_app(
    settings: ApiSettings,
    open_node: OpenNode | None = None,
    *,
    vertex: VertexSettings | None = None,
) -> FastAPI:
    """The ASGI application. ``app.state`` has ``connections`` and ``presence`` for the server.

    Raises KeysInvalid, and ValueError for a poor secret or a route of Vertex AI that is taken.
    """
    keyring = Keyring(settings.keys, settings.api_keys_file)
    signer = Signer(settings.signing_secrets)
    nothing = SecretStr("")  # from here on there are hashes alone
    settings = settings.model_copy(update={"api_keys": nothing, "link_secrets": nothing})
    connections, presence = Connections(settings.connection_age_s), Presence()
    opening = open_node or _open_node

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opening(settings, connections, presence) as node, _running(keys=keyring.watch):
            app.state.node = node
            yield

    app = Application(
        title="replay-cluster",
        version=build_info(),
        lifespan=lifespan,
        middleware=middleware(settings, keyring, signer),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.connections = connections
    app.state.presence = presence
    app.state.keyring = keyring
    app.state.signer = signer
    for module in ROUTED:
        app.include_router(module.router)
    if vertex is not None and vertex.is_on:
        add_vertex(app, [module.router for module in ROUTED], vertex)
    add_problems(app)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]  # FastAPI's way to extend it
    return app


def middleware(settings: ApiSettings, keyring: Keyring, signer: Signer) -> list[Middleware]:
    """From the outside in: CORS, errors of ours, the pages, the request's id, the key, HEAD."""
    root = settings.root_path
    assets = {**webui.load(settings.webui_dir, root), **docs.load(root)}
    return [
        Middleware(
            CORSMiddleware,
            allow_credentials=True,
            allow_methods=METHODS,
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
            **cors_origins(settings.cors_origins),
        ),
        Middleware(ServerErrorMiddleware, handler=_told),  # Starlette's own stands outside of CORS
        Middleware(webui.Webui, assets=assets),
        Middleware(RequestIds),
        Middleware(Auth, keyring=keyring, signer=signer),
        Middleware(HeadAsGet),
    ]


def cors_origins(text: str) -> dict[str, Any]:
    """The setting as Starlette takes it. Pure."""
    if text.strip() == "localhost":
        return {"allow_origin_regex": LOCALHOST.pattern}
    return {"allow_origins": [part.strip() for part in text.split(",") if part.strip()]}


async def _told(request: Request, error: Exception) -> Response:
    return problem_response(error, route_path(request.scope))


def add_problems(app: FastAPI) -> None:
    """Every error that we know becomes the envelope, whatever raised it."""

    async def nothing_there(request: Request, error: Exception) -> Response:
        return await _told(request, NothingThere(request.method, request.url.path))

    async def client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # nobody reads it

    for kind in TABLE:
        app.add_exception_handler(kind, _told)
    app.add_exception_handler(HTTPException, nothing_there)
    app.add_exception_handler(ClientDisconnect, client_gone)


@asynccontextmanager
async def _open_node(
    settings: ApiSettings, connections: Connections, presence: Presence
) -> AsyncIterator[Node]:
    """A node over Redis. It starts while Redis is away, and ends with everything it started."""
    async with AsyncExitStack() as stack:
        log_redis = connect(settings.redis_url)
        stack.push_async_callback(log_redis.aclose)
        inbox_redis = connect_queue(settings.queue_url)
        stack.push_async_callback(inbox_redis.aclose)
        queue = ArqQueue(settings.queue_url)
        stack.push_async_callback(queue.aclose)

        node_id = f"{settings.node}-{secrets.token_hex(ID_CHARACTERS // 2)}"
        log, directory = RedisLog(log_redis), Directory(log_redis)
        catalog = Catalog(directory)
        inbox = Inbox(
            inbox_redis, node_id, settings.prepare_timeout_s, settings.embedding_timeout_s
        )
        recovery = Recovery(log, lease_s=settings.lease_s)
        tailer = await stack.enter_async_context(_tailer(settings, log, catalog, queue, recovery))
        heartbeat = Heartbeat(directory, node_id, connections, presence)
        stack.push_async_callback(_leave, directory, node_id)
        compactor = Compactor(log)
        sweeper = await stack.enter_async_context(_sweeper(settings, queue, compactor))
        await stack.enter_async_context(_checked(settings, log_redis, inbox_redis, presence))
        await stack.enter_async_context(
            _running(
                heartbeat=heartbeat.run,
                inbox=inbox.run,
                sweeper=sweeper.run,
                compactor=compactor.run,
                recovery=recovery.watch,
                overdue=lambda: cut_overdue(connections, settings.send_timeout_s),
            )
        )
        node = Node(
            id=node_id,
            settings=settings,
            log=log,
            tailer=tailer,
            catalog=catalog,
            preparer=inbox,
            queue=queue,
            connections=connections,
            recovery=recovery,
            admission=Admission(settings, queue, Inspector(log_redis).live),
            scales=RedisAdapterScales(log_redis),
            presence=presence,
        )
        try:
            yield node
        finally:
            await node.errands.finish(LEAVE_TIMEOUT_S)


def _tailer(
    settings: ApiSettings, log: RedisLog, catalog: Catalog, queue: JobQueue, recovery: Recovery
) -> Tailer:
    def channels(on_message: OnMessage, on_reset: OnReset) -> Any:
        return Subscription(
            settings.redis_url, on_message=on_message, on_reset=on_reset, on_break=recovery.look
        ).open()

    return Tailer(
        log,
        channels,
        waiting=lambda ref: keep_alive(ref, catalog, queue),
        joins_history=True,
        may_come_back=lambda: recovery.is_under_way,
    )


async def keep_alive(ref: SessionRef, catalog: Catalog, queue: JobQueue) -> bytes:
    """What a session that waits for a worker says of its waiting."""
    model = (await catalog.picture()).named(ref.model)
    if model is not None and model.status == "loading":
        return frames.comment(f"loading {round(100 * model.progress)}")
    position = await position_of(queue, ref)
    return frames.PING if position is None else frames.comment(f"queued {position}")


@asynccontextmanager
async def _sweeper(
    settings: ApiSettings, queue: JobQueue, compactor: Compactor
) -> AsyncIterator[Sweeper]:
    """A sweeper on a client of its own, whose connections nobody else opens or breaks."""
    redis = connect(settings.redis_url)

    async def requeue(look: Look, dispatch: int) -> None:
        await queue.enqueue(look.ref, dispatch=dispatch, number=look.queue_number)

    async def has_job(look: Look) -> bool:
        return await queue.has_job(look.ref, dispatch=look.dispatch)

    try:
        yield Sweeper(
            RedisLog(redis),
            Directory(redis),
            lease_s=settings.lease_s,
            requeue=requeue,
            has_job=has_job,
            compactor=compactor,
        )
    finally:
        await redis.aclose()


@asynccontextmanager
async def _checked(
    settings: ApiSettings, log_redis: Client, queue_redis: Client, presence: Presence
) -> AsyncIterator[None]:
    """A block beside which Redis, once it answers, may be refused; the node then ends."""
    planes: dict[str, Client] = {"REPLAY_REDIS_URL": log_redis}
    if settings.queue_url != settings.redis_url:
        planes["REPLAY_QUEUE_REDIS_URL"] = queue_redis

    async def check() -> None:
        try:
            await check_policies(planes)
        except RedisUnfit as error:
            presence.refusal = str(error)

    checking = asyncio.create_task(check(), name="policies")
    await asyncio.wait([checking], timeout=START_S)
    try:
        yield
    finally:
        checking.cancel()
        await asyncio.wait([checking])


@asynccontextmanager
async def _running(**loops: Callable[[], Any]) -> AsyncIterator[None]:
    """Runs the loops beside the block, and ends them with it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(supervised(name, run)) for name, run in loops.items()]
        yield
        for task in tasks:
            task.cancel()


async def _leave(directory: Directory, node_id: str) -> None:
    """Takes the node's record out, so that its plain sessions are ended at once."""
    with suppress(LogUnavailable, TimeoutError):
        async with asyncio.timeout(LEAVE_TIMEOUT_S):
            await directory.leave_node(node_id)
