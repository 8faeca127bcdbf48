"""A compacted log as an HTTP response, gzipped for whoever takes that.

All of it is stored, and nothing changes it any more: so nothing is listened to, large pages are
read, since they are packed, and many blocks leave in one send.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from api.connection import Comeback, Connection
from api.gzip_coding import GzipMember
from api.node import Node
from api.stream_response import (
    STREAM_HEADERS,
    VARIES,
    Coding,
    ConnectedResponse,
    SessionHead,
    raw,
)
from replay.blocks import Block
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.log import SessionLog
from replay.records import Chunk

PAGE_BYTES_MAX = 4 * 1024 * 1024
"""Unpacked; a reader that does not read holds a page, of which at most half is left."""

SEND_BYTES = 64 * 1024
"""What is sent at once, at least: less costs calls, more waits for the socket's buffer."""

GZIPPED = (b"content-encoding", b"gzip")


class CompactedResponse(ConnectedResponse):
    """The session's bytes from ``offset`` on."""

    __slots__ = ("_coding", "_head", "_log", "_offset", "_state")

    def __init__(
        self, node: Node, head: SessionHead, *, offset: int, state: str, coding: Coding
    ) -> None:
        super().__init__(node.connections, Comeback.REPEAT)
        self._log = node.log
        self._head = head
        self._offset = offset
        self._state = state
        self._coding = coding

    async def serve(self, connection: Connection) -> None:
        """See ``ConnectedResponse``."""
        coding = self._coding
        pages = _pages(self._log, self._head.ref, self._offset)
        page = await anext(pages)
        named = raw(self._head.headers(self._state, offset=self._offset))
        codings = [GZIPPED] if isinstance(coding, GzipMember) else []
        await connection.start(200, [*STREAM_HEADERS, VARIES, *codings, *named])
        for data in _sends(page, coding):
            await connection.body(data)
        async for page in pages:
            for data in _sends(page, coding):
                await connection.body(data)
        if last := coding.finish():
            await connection.body(last)
        await connection.finish()


async def _pages(
    log: SessionLog, ref: SessionRef, offset: int
) -> AsyncIterator[list[Chunk | Block]]:
    """All that is stored from ``offset`` on. Raises OffsetExpired and LogUnavailable."""
    while True:
        page = await log.read(ref, offset, bytes_max=PAGE_BYTES_MAX)
        if page.end is None and not page.more:
            raise LogUnavailable("the end of the log is gone")
        yield page.chunks
        if page.end is not None:
            return
        offset = page.chunks[-1].end


def _sends(page: Iterable[Chunk | Block], coding: Coding) -> Iterator[bytes]:
    """The bytes of a page in few parts; each is unpacked when its time has come."""
    parts: list[bytes] = []
    size = 0
    for stored in page:
        parts.append(coding.feed(stored))
        size += len(parts[-1])
        if size >= SEND_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
