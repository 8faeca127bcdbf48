"""A tail as an HTTP response: exactly the log's bytes, one HTTP chunk for each of its own.

Raw ASGI, since this is what a node spends its time on. Whether it ends cleanly is the contract:
with the final chunk after the log's end, however the session ended, and without it for every
other reason.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Receive, Scope, Send

from api.connection import Comeback, Connection, Connections, ResponseCut
from api.problems import TABLE, problem_response, route_path
from replay.blocks import Block
from replay.identity import SessionRef
from replay.records import Chunk, End
from replay.tail import Tail
from replay.tailer import Tailer

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)

VARIES = (b"vary", b"accept-encoding")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionHead:
    """What a response says of its session before the first byte."""

    ref: SessionRef
    completion_id: str
    ping_interval_s: int

    def headers(self, state: str, **more: object) -> dict[str, str]:
        """The headers that name the session; ``more`` are further ``X-Stream-`` ones."""
        extra = {f"X-Stream-{name.title()}": str(value) for name, value in more.items()}
        return {
            "X-Stream-Epoch": str(self.ref.epoch),
            "X-Stream-State": state,
            "X-Completion-Id": self.completion_id,
            **extra,
        }


def raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI takes them."""
    return [(key.lower().encode(), value.encode()) for key, value in headers.items()]


class Coding(Protocol):
    """How a log's bytes are sent."""

    def feed(self, stored: Chunk | Block) -> bytes:
        """The next bytes."""
        ...

    def finish(self) -> bytes:
        """What stands after the last ones."""
        ...


class Identity:
    """As they are."""

    def feed(self, stored: Chunk | Block) -> bytes:
        """See ``Coding``."""
        return stored.data

    def finish(self) -> bytes:
        """See ``Coding``."""
        return b""


IDENTITY = Identity()


async def pump(
    connection: Connection, tail: Tail, item: Chunk | End | None, coding: Coding = IDENTITY
) -> None:
    """Sends ``item`` and what follows it, then the final chunk."""
    while not isinstance(item, End):
        if item is not None and (data := coding.feed(item)):
            await connection.body(data)
        item = await tail.next()
    if last := coding.finish():
        await connection.body(last)
    await connection.finish()


class ConnectedResponse(ABC):
    """An answer that watches its client and may be cut. Subclasses say what it sends."""

    __slots__ = ("_comeback", "_connections", "_start")

    def __init__(self, connections: Connections, comeback: Comeback) -> None:
        self._connections = connections
        self._comeback = comeback
        self._start: Send | None = None

    def begin(self, start: Send) -> None:
        """See ``Answer``."""
        self._start = start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        start = self._start or send
        connection = Connection(scope, receive, send, start, self._comeback)
        self._start = None
        self._connections.add(connection)
        try:
            async with connection:
                await self._serve_or_cut(connection, route_path(scope))
        finally:
            self._connections.discard(connection)
        if connection.needs_raise:
            raise ResponseCut

    async def _serve_or_cut(self, connection: Connection, path: str) -> None:
        try:
            await self.serve(connection)
        except Exception as error:  # the root of this answer: its client is told in any case
            if type(error) not in TABLE:
                logger.exception("an answer failed")
            if connection.started:
                connection.cut()
            else:
                await connection.answer(problem_response(error, path))

    @abstractmethod
    async def serve(self, connection: Connection) -> None:
        """Sends the whole response. Raises what is wrong; once it has started, that is a cut."""


class StreamResponse(ConnectedResponse):
    """The session's bytes from ``offset`` on, stored and live.

    ``is_stored`` tells that bytes or the end lie past ``offset``. Then they are read before the
    status line goes out, which may turn out to be 410; else the reader need not wait for it.
    """

    __slots__ = ("_coding", "_head", "_is_stored", "_offset", "_state", "_tailer")

    def __init__(
        self,
        connections: Connections,
        tailer: Tailer,
        head: SessionHead,
        *,
        offset: int,
        state: str,
        is_stored: bool,
        coding: Coding,
    ) -> None:
        super().__init__(connections, Comeback.REPEAT)
        self._tailer = tailer
        self._head = head
        self._offset = offset
        self._state = state
        self._is_stored = is_stored
        self._coding = coding

    async def serve(self, connection: Connection) -> None:
        """See ``ConnectedResponse``."""
        head = self._head
        async with self._tailer.tail(
            head.ref, self._offset, ping_interval_s=head.ping_interval_s
        ) as tail:
            first = await tail.next() if self._is_stored else None
            headers = head.headers(self._state, offset=self._offset)
            await connection.start(200, [*STREAM_HEADERS, VARIES, *raw(headers)])
            if connection.wants_body:
                await pump(connection, tail, first, self._coding)
            else:
                await connection.finish()
