"""A generation in any dialect: open a session, wait for the first byte, answer.

With X-Conversation-Id or Idempotency-Key the session outlives its client; without them, it is
stopped when the client leaves (a *plain* session).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from api import requests
from api.connection import Connection
from api.dialects import Dialect
from api.dialects.as_chat import in_own_words
from api.json_body import parse_object
from api.lasting import Lasting
from api.node import Node
from api.opening import Caller, Opening, OpenSession
from api.problems import SessionEnded, Unavailable
from api.stream import stop
from api.stream_response import STREAM_HEADERS, ConnectedResponse, pump, raw
from replay import frames
from replay.errors import EpochMismatch, LogUnavailable, SessionNotFound
from replay.identity import SessionRef
from replay.records import Chunk, End, State
from replay.request import SEED_MAX, GenerationRequest
from replay.tail import Tail

ABANDON_PAUSES_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Between the attempts to stop what nobody waits for, while Redis is away."""

logger = logging.getLogger(__name__)

Parsing = Callable[[Mapping[str, Any], int], Awaitable[GenerationRequest]]
"""A body and a seed to what they mean."""


async def generate(request: Request, node: Node, dialect: Dialect) -> Response:
    """The answer to a POST, streamed or not, as its body wishes. Raises what refuses it."""
    return answer(node, await opened(request, node, dialect), dialect)


def answer(node: Node, session: OpenSession, dialect: Dialect) -> Response:
    """The answer that waits for the session."""
    return Lasting(GenerationResponse(node, session, dialect))


async def opened(
    request: Request, node: Node, dialect: Dialect, parse: Parsing | None = None
) -> OpenSession:
    """The session that answers a POST. Raises what refuses it.

    ``parse`` takes the dialect's place where more than the body must be looked at.
    """
    node.presence.check_open()
    caller = Caller.of(request, node.settings.name_bytes_max)
    body = await requests.read_body(request, node.settings.body_bytes_max)
    said, seed = parse_object(body), secrets.randbelow(SEED_MAX)
    with in_own_words(dialect.names):
        asked = await parse(said, seed) if parse else dialect.parse(said, random_seed=seed)
        opening = Opening(node, caller, asked, body, request.receive, id_prefix=dialect.id_prefix)
        return await opening.session()


class FirstBytes:
    """Watches a log's first bytes for what decides the status line. Pure.

    ``is_answer``: something other than keep-alives came. ``error``: it was an error event.
    """

    def __init__(self) -> None:
        self.is_answer = False
        self.error: str | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, in whole frames."""
        for frame in frames.split(data):
            if frames.is_comment(frame):
                continue
            self.error = frames.error_of(frame)
            self.is_answer = self.error is None
            return


@dataclass(slots=True)
class Prelude:
    """What came before the status line: bytes, then perhaps the end, or what is awaited next."""

    held: list[Chunk]
    end: End | None = None
    coming: asyncio.Task[Chunk | End] | None = None

    async def aclose(self) -> None:
        """Ends what is awaited, where nobody awaits it any more."""
        if self.coming is not None:
            self.coming.cancel()
            await asyncio.wait([self.coming])


class GenerationResponse(ConnectedResponse):
    """The answer to the POST that opened the session; a plain one ends when its client leaves."""

    __slots__ = ("_dialect", "_has_ended", "_node", "_session")

    def __init__(self, node: Node, session: OpenSession, dialect: Dialect) -> None:
        super().__init__(node.connections, session.comeback)
        self._node = node
        self._session = session
        self._dialect = dialect
        self._has_ended = False

    async def serve(self, connection: Connection) -> None:
        """Sends the stream, or its fold. Raises SessionEnded where nothing was said."""
        head = self._session.head
        tail = self._node.tailer.tail(head.ref, 0, ping_interval_s=head.ping_interval_s)
        try:
            async with tail as opened:
                if self._session.request.render.stream:
                    await self._stream(connection, opened)
                else:
                    await self._fold(connection, opened)
        except SessionNotFound:
            raise Unavailable("the session log has lost the session, retry", "forgotten") from None
        finally:
            if self._session.is_plain and not self._has_ended:
                # Not awaited here: Redis may be away, and the client's leaving ends this task.
                self._node.errands.run(abandon(self._node, head.ref))

    async def _stream(self, connection: Connection, tail: Tail) -> None:
        prelude = Prelude([])
        try:
            await self._await_answer(tail, prelude)
            headers = self._named(await self._state(prelude), offset=0)
            await connection.start(200, [*STREAM_HEADERS, *headers])
            for chunk in prelude.held:
                await connection.body(chunk.data)
            item = await prelude.coming if prelude.coming else prelude.end
        finally:
            await prelude.aclose()
        await pump(connection, tail, item)
        self._has_ended = True

    async def _await_answer(self, tail: Tail, prelude: Prelude) -> None:
        """Takes everything up to the first byte that is no keep-alive, but not for too long."""
        first = FirstBytes()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._node.settings.status_timeout_s
        while not first.is_answer:
            prelude.coming = asyncio.create_task(tail.next())
            # Not cancelled at the limit: what it reads must not be lost.
            await asyncio.wait([prelude.coming], timeout=max(0.0, until - loop.time()))
            if not prelude.coming.done():
                return
            item, prelude.coming = prelude.coming.result(), None
            if isinstance(item, End):
                self._check(item, first.error)
                prelude.end = item
                return
            first.feed(item.data)
            prelude.held.append(item)

    async def _fold(self, connection: Connection, tail: Tail) -> None:
        fold = self._dialect.fold(self._session.request)
        while not isinstance(item := await tail.next(), End):
            fold.feed(item.data)
        self._check(item, fold.error)
        body = frames.compact(fold.answer()).encode()
        headers = raw({"Content-Type": "application/json", "Content-Length": str(len(body))})
        await connection.start(200, [*headers, *self._named(item.state, offset=0)])
        await connection.body(body)
        await connection.finish()

    def _check(self, end: End, error: str | None) -> None:
        """Raises SessionEnded for every end but a completed one."""
        self._has_ended = True
        if end.state is State.COMPLETED:
            return
        message = error or _message_of(end)
        headers = self._session.headers(end.state)
        raise SessionEnded(message, state=end.state, reason=end.reason, headers=headers)

    async def _state(self, prelude: Prelude) -> State:
        if prelude.end is not None:
            return prelude.end.state
        if prelude.coming is None:
            return State.RUNNING
        ref = self._session.head.ref
        pulse = await self._node.log.pulse(ref, silence_ms=-1, comment=b"")
        if pulse is None:
            raise SessionNotFound(ref.conversation_id, "it is gone")
        return pulse.state

    def _named(self, state: State, **more: object) -> list[tuple[bytes, bytes]]:
        return raw(self._session.headers(state, **more))


def _message_of(end: End) -> str:
    if end.state is not State.STOPPED:
        return frames.MESSAGES.get((end.state, end.reason), f"{end.state} ({end.reason})")
    if end.reason == "replaced":
        return "request cancelled by a newer request of its conversation"
    if end.reason == "operator":
        return "request cancelled by the cluster's operator"
    return "request cancelled by a stop"


async def abandon(node: Node, ref: SessionRef) -> None:
    """Stops a session that nobody waits for, however long Redis is away (within bounds)."""
    for pause_s in ABANDON_PAUSES_S:
        try:
            await stop(
                node, ref.tenant, ref.conversation_id, epoch=ref.epoch, reason="disconnected"
            )
        except EpochMismatch:
            return
        except LogUnavailable:
            await asyncio.sleep(pause_s)
        else:
            return
    logger.warning("left running, since it could not be stopped: %s", ref.path())
