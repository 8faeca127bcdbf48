"""The hub: joins stored bytes and live bytes, without a seam, for all readers of this process.

One pub/sub connection for the process, one channel for each session that somebody reads. A reader
costs nothing while its session is silent, and an event costs the same however many are idle.

The order decides: a channel is *confirmed* before history is read; published bytes whose start is
the reader's position are delivered, a start below is a repeat and is cut, a start above is a gap
and sends the reader back to the history. A reader that does not keep up loses its queue, not its
place: it too goes back to the history.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Protocol

from replay import frames, keys
from replay.blocks import Block, joined
from replay.errors import LogUnavailable, OffsetBeyondEnd, OffsetDoubtful, SessionNotFound
from replay.identity import SessionRef
from replay.log import (
    Ask,
    Feed,
    Page,
    Pulse,
    SessionLog,
)
from replay.records import Chunk, End, State
from replay.subscription import Channels, OnMessage, OnReset

READER_BYTES_MAX = 256 * 1024
"""Live bytes that wait for one reader; more, and it reads them from the history instead."""

PULSE_TICK_S = 0.25
PULSE_SLACK_S = 2.0
"""How much longer than its keep-alive interval a running session may be silent."""

SILENCE_S = 15.0
"""When a session without keep-alives is asked about."""

PULSES_AT_ONCE = 64

OUTAGE_MAX_S = 30.0
"""How long a reader tries to read on while Redis does not answer; then it is cut."""

RETRY_S = 0.5

logger = logging.getLogger(__name__)


class ReadableLog(SessionLog, Feed, Protocol):
    """What the hub reads from."""


OpenChannels = Callable[[OnMessage, OnReset], "OpenedChannels"]


class OpenedChannels(Protocol):
    """A pub/sub connection that is open for as long as its block runs."""

    async def __aenter__(self) -> Channels: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None: ...


async def nothing_to_say(ref: SessionRef) -> bytes:
    """The keep-alive of a session about whose place in the queue nothing is known."""
    return frames.PING


class Tailer:
    """The readers of one process. Owned by the process: ``async with Tailer(...)``."""

    def __init__(
        self,
        log: ReadableLog,
        channels: OpenChannels,
        *,
        waiting: Callable[[SessionRef], Awaitable[bytes]] = nothing_to_say,
        joins_history: bool = False,
        may_come_back: Callable[[], bool] = lambda: False,
    ) -> None:
        """``joins_history``: stored entries come in few large chunks, not one by one.

        ``may_come_back``: whether a session that is gone may only have been forgotten by Redis, so
        that its producer will say so.
        """
        self._log = log
        self._may_come_back = may_come_back
        self._joins_history = joins_history
        self._open_channels = channels
        self._waiting = waiting
        self._topics: dict[str, _Topic] = {}
        self._channels: Channels
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Tailer:
        self._channels = await self._stack.enter_async_context(
            self._open_channels(self._on_message, self._on_reset)
        )
        task = asyncio.create_task(self._pulse_forever(), name="pulse")
        self._stack.push_async_callback(_ended, task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return sum(len(topic.tails) for topic in self._topics.values())

    @asynccontextmanager
    async def tail(
        self, ref: SessionRef, offset: int, *, ping_interval_s: float = SILENCE_S
    ) -> AsyncIterator[Tail]:
        """A reader of the session from byte ``offset`` on: history, then live, until the end.

        ``ping_interval_s`` is the record's. Raises OffsetExpired, OffsetBeyondEnd, OffsetDoubtful,
        SessionNotFound and LogUnavailable, here or while it is iterated.
        """
        async with self._joined(ref) as topic:
            topic.ping_interval_s = ping_interval_s
            tail = Tail(topic, offset, joins_history=self._joins_history)
            if offset > 0:
                await self._check(tail)
            topic.tails.add(tail)
            try:
                yield tail
            finally:
                topic.tails.discard(tail)

    @asynccontextmanager
    async def listen(self, ref: SessionRef) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the session's producer says that it has let go of it."""
        async with self._joined(ref) as topic:
            yield topic.released

    @asynccontextmanager
    async def _joined(self, ref: SessionRef) -> AsyncIterator[_Topic]:
        channel = keys.channel(ref)
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic(ref, self._log)
        topic.members += 1
        try:
            await self._channels.subscribe(channel)
            yield topic
        finally:
            topic.members -= 1
            if not topic.members:
                del self._topics[channel]
                self._channels.unsubscribe(channel)
                await topic.aclose()

    async def _check(self, tail: Tail) -> None:
        """Whether the log has what the client says that it has."""
        ref, offset = tail.ref, tail.position
        pulse = await self._log.pulse(ref, silence_ms=-1, comment=b"")
        if pulse is None:
            if self._may_come_back():
                raise LogUnavailable("it may have forgotten the session")
            raise SessionNotFound(ref.conversation_id)
        if pulse.doubt is not None:
            if pulse.doubt.concerns(offset):
                raise OffsetDoubtful(offset, pulse.doubt.offset)
            tail.cleared = pulse.doubt.number
        if offset > pulse.end:
            raise OffsetBeyondEnd(offset, pulse.end)

    def _on_message(self, channel: str, payload: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is not None:
            topic.hear(payload)

    def _on_reset(self) -> None:
        """Something may have been missed, or forgotten, while the connection was away."""
        for topic in self._topics.values():
            topic.reread()

    async def _pulse_forever(self) -> None:
        while True:
            await asyncio.sleep(PULSE_TICK_S)
            now = time.monotonic()
            silent = [topic for topic in self._topics.values() if topic.silent_at(now)]
            for first in range(0, len(silent), PULSES_AT_ONCE):
                group = silent[first : first + PULSES_AT_ONCE]
                try:
                    await self._pulse(group)
                except LogUnavailable:
                    break  # the next tick asks again

    async def _pulse(self, group: Sequence[_Topic]) -> None:
        asks = await asyncio.gather(*map(self._ask, group))
        for topic, pulse in zip(group, await self._log.pulses(asks), strict=True):
            if isinstance(pulse, Exception) or (pulse is None and self._may_come_back()):
                continue
            topic.heard = time.monotonic()
            topic.take(pulse)

    async def _ask(self, topic: _Topic) -> Ask:
        if not topic.waits or topic.ping_interval_s < 0:
            return Ask(topic.ref)
        silence_ms = max(0, round(topic.ping_interval_s * 1000) - 100)
        try:
            comment = await self._waiting(topic.ref)
        except LogUnavailable:  # the queue may be another Redis; the pulse must go on
            comment = frames.PING
        return Ask(topic.ref, silence_ms, comment)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class _Topic:
    """One session that somebody of this process reads."""

    def __init__(self, ref: SessionRef, log: ReadableLog) -> None:
        self.ref = ref
        self.tails: set[Tail] = set()
        self.members = 0
        self.released = asyncio.Event()
        self.heard = time.monotonic()
        self.ping_interval_s: float = SILENCE_S
        self.waits = True
        self._log = log
        self._asked: dict[int, asyncio.Task[Page]] = {}
        self._under_way: dict[int, asyncio.Task[Page]] = {}

    def hear(self, payload: bytes) -> None:
        """One published message: a chunk, the end, a doubt, or the producer's release."""
        self.heard = time.monotonic()
        if payload.startswith(b"c"):
            start, data = payload[1:].split(b"\n", 1)
            for tail in self.tails:
                tail.offer(int(start), data)
        elif payload.startswith(b"e"):
            end = End.from_json(payload[1:])
            for tail in self.tails:
                tail.offer_end(end)
        elif payload.startswith(b"d"):
            offset, number = payload[1:].split()
            for tail in self.tails:
                tail.doubt(int(offset), int(number))
        elif payload == b"r":
            self.released.set()

    def silent_at(self, now: float) -> bool:
        """Whether the session should be asked how it is."""
        interval = self.ping_interval_s if self.ping_interval_s >= 0 else SILENCE_S
        return now - self.heard >= (interval if self.waits else interval + PULSE_SLACK_S)

    def take(self, pulse: Pulse | None) -> None:
        """What a pulse has told."""
        if pulse is None:
            for tail in self.tails:
                tail.lose(SessionNotFound(self.ref.conversation_id, "it is gone"))
            return
        self.waits = pulse.state in (State.QUEUED, State.LOADING)
        for tail in self.tails:
            if pulse.doubt is not None:
                tail.doubt(pulse.doubt.offset, pulse.doubt.number)
            if pulse.state.is_final or tail.position < pulse.end:
                tail.fall_behind()

    def reread(self) -> None:
        """Sends every reader back to the history: what was read may have been forgotten."""
        for tail in self.tails:
            tail.reread()

    async def page(self, offset: int) -> Page:
        """One page of history, read after this call; readers who ask meanwhile share it.

        A read under way is not shared: what this reader must not miss may have come since.
        """
        task = self._asked.get(offset)
        if task is None:
            task = asyncio.create_task(self._read(offset, self._under_way.get(offset)))
            task.add_done_callback(_retrieved)
            self._asked[offset] = task
        return await asyncio.shield(task)

    async def _read(self, offset: int, before: asyncio.Task[Page] | None) -> Page:
        if before is not None:
            await asyncio.wait([before])
        this = self._under_way[offset] = self._asked.pop(offset)
        try:
            return await self._log.read(self.ref, offset)
        finally:
            if self._under_way.get(offset) is this:
                del self._under_way[offset]

    async def aclose(self) -> None:
        """Ends what the last reader left unfinished."""
        pages = [*self._asked.values(), *self._under_way.values()]
        for task in pages:
            task.cancel()
        await asyncio.gather(*pages, return_exceptions=True)


def _retrieved(task: asyncio.Task[Page]) -> None:
    """Whoever asked may be gone by now; an error is then nobody's."""
    if not task.cancelled():
        task.exception()


class Tail:
    """One reader's way through a log: an async iterator of chunks, and at last the end.

    Owned by the reader's task; ``offer`` and its like are called by the hub, between awaits.
    """

    __slots__ = (
        "_away_since_s",
        "_behind",
        "_has_read",
        "_joins_history",
        "_loop",
        "_lost",
        "_pieces",
        "_queued_bytes",
        "_reread",
        "_stored",
        "_topic",
        "_waiter",
        "cleared",
        "position",
    )

    def __init__(self, topic: _Topic, offset: int, *, joins_history: bool = False) -> None:
        self.position = offset
        self.cleared = 0  # number of the last doubt that was found not to concern it
        self._joins_history = joins_history
        self._topic = topic
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
        return self._topic.ref

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
            page = await self._topic.page(self.position)
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
