"""One reader: from stored bytes to live ones, back where something was missed, cut in doubt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Protocol

from replay.blocks import Block, joined
from replay.errors import LogUnavailable, OffsetDoubtful
from replay.identity import SessionRef
from replay.log_values import Page
from replay.records import Chunk, End

READER_BYTES_MAX = 256 * 1024
"""Live bytes that wait for one reader; more, and it reads them from the history instead."""

OUTAGE_MAX_S = 30.0
"""How long a reader tries to read on while Redis does not answer; then it is cut."""

RETRY_S = 0.5


class History(Protocol):
    """The stored bytes of one session; ``replay.topic`` has them."""

    ref: SessionRef

    async def page(self, offset: int) -> Page:
        """See ``SessionLog.read``."""
        ...


class Tail:
    """One reader's way through a log: an async iterator of chunks, and at last the end.

    Owned by the reader's task; ``offer`` and its like are called by the hub, between awaits.
    """

    __slots__ = (
        "_away_since_s",
        "_behind",
        "_has_read",
        "_history",
        "_joins_history",
        "_loop",
        "_lost",
        "_pieces",
        "_queued_bytes",
        "_reread",
        "_stored",
        "_waiter",
        "cleared",
        "position",
    )

    def __init__(self, history: History, offset: int, *, joins_history: bool = False) -> None:
        self.position = offset
        self.cleared = 0  # number of the last doubt that was found not to concern it
        self._joins_history = joins_history
        self._history = history
        self._reread = False
        self._has_read = False
        self._away_since_s = 0.0
        # Short lists: ten thousand readers have them, and an empty deque takes 760 bytes.
        self._stored: list[Chunk | Block | End] = []
        self._pieces: list[tuple[int, bytes] | End] = []
        self._queued_bytes = 0
        self._behind = True
        self._lost: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ref(self) -> SessionRef:
        """Whose log it reads."""
        return self._history.ref

    def offer(self, start: int, data: bytes) -> None:
        """Live bytes; beyond the limit the queue is dropped and read from the history later."""
        self._queued_bytes += len(data)
        if self._queued_bytes > READER_BYTES_MAX:
            self.fall_behind()
            return
        self._pieces.append((start, data))
        self._wake()

    def offer_end(self, end: End) -> None:
        """The live end."""
        self._pieces.append(end)
        self._wake()

    def fall_behind(self) -> None:
        """Back to the history; what is queued stands there too."""
        self._pieces.clear()
        self._queued_bytes = 0
        self._behind = True
        self._wake()

    def reread(self) -> None:
        """The same, with what was read already and not delivered: Redis may have forgotten it."""
        self._stored.clear()
        self._reread = True
        self.fall_behind()

    def doubt(self, offset: int, number: int) -> None:
        """Bytes above ``offset`` may be others now; a reader below it has none of them."""
        if number <= self.cleared:
            return
        self.cleared = number
        self.reread()
        if self.position > offset:
            self.lose(OffsetDoubtful(self.position, offset))

    def lose(self, error: Exception) -> None:
        """Nothing more will come; the reader gets ``error``."""
        self._lost = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> Chunk | End:
        """The next bytes, or the end; after the end nothing may be asked.

        Raises what ``Tailer.tail`` names.
        """
        while True:
            if self._stored:
                return self._deliver(self._stored.pop(0))
            if self._lost is not None:
                raise self._lost
            if self._behind:
                await self._read()
                continue
            if (item := self._live()) is not None:
                return self._deliver(item)
            if not self._behind:
                # An Event would ask for the running loop, which is a system call on Python 3.11.
                self._waiter = self._loop.create_future()
                await self._waiter

    async def __aiter__(self) -> AsyncIterator[Chunk | End]:
        while True:
            item = await self.next()
            yield item
            if isinstance(item, End):
                return

    def _deliver(self, item: Chunk | Block | End) -> Chunk | End:
        if not isinstance(item, End):
            self.position = item.end
        elif item.size < self.position:
            raise OffsetDoubtful(self.position, item.size)
        return item.chunk() if isinstance(item, Block) else item

    async def _read(self) -> None:
        # Cleared first: what happens during the read (a gap, a reset) must send us back again.
        self._behind = self._reread = False
        page = await self._page()
        if page is None:
            return
        if page.doubt is not None:
            self.doubt(page.doubt.offset, page.doubt.number)
        if self._reread:
            return
        self._stored.extend(joined(page.chunks) if self._joins_history else page.chunks)
        if page.end is not None:
            self._stored.append(page.end)
        elif page.more:
            self._behind = True

    async def _page(self) -> Page | None:
        """The next page; None where Redis is away, which a reader who has read waits out."""
        try:
            page = await self._history.page(self.position)
        except LogUnavailable:
            now_s = self._loop.time()
            self._away_since_s = self._away_since_s or now_s
            if not self._has_read or now_s - self._away_since_s > OUTAGE_MAX_S:
                raise
            self._behind = True
            await asyncio.sleep(random.uniform(RETRY_S / 2, RETRY_S))
            return None
        self._has_read, self._away_since_s = True, 0.0
        return page

    def _live(self) -> Chunk | End | None:
        while self._pieces:
            piece = self._pieces.pop(0)
            if isinstance(piece, End):
                if piece.size > self.position:
                    self._behind = True
                    return None
                return piece
            start, data = piece
            self._queued_bytes -= len(data)
            if start > self.position:
                self._behind = True
                return None
            if start + len(data) > self.position:
                return Chunk(start + len(data), data[self.position - start :])
        return None
