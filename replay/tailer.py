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
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Protocol

from replay import frames, keys
from replay.errors import LogUnavailable, OffsetBeyondEnd, OffsetDoubtful, SessionNotFound
from replay.identity import Conversation, SessionRef
from replay.log import Feed, SessionLog
from replay.log_values import Ask
from replay.subscription import Channels, OnMessage, OnReset
from replay.tail import Tail
from replay.topic import SILENCE_S, Topic

PULSE_TICK_S = 0.25
PULSES_AT_ONCE = 64

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
        self._topics: dict[str, Topic] = {}
        self._watched: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
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
    async def changes(self, conversations: Iterable[Conversation]) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever a session of theirs may have been opened, or has ended.

        Raises LogUnavailable.
        """
        event, channels = asyncio.Event(), {keys.news(one) for one in conversations}
        for channel in channels:
            self._watched[channel].add(event)
        try:
            await asyncio.gather(*map(self._channels.subscribe, channels))
            yield event
        finally:
            for channel in channels:
                self._watched[channel].discard(event)
                if not self._watched[channel]:
                    del self._watched[channel]
                    self._channels.unsubscribe(channel)

    @asynccontextmanager
    async def _joined(self, ref: SessionRef) -> AsyncIterator[Topic]:
        channel = keys.channel(ref)
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = Topic(ref, self._log)
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
        for event in self._watched.get(channel, ()):
            event.set()

    def _on_reset(self) -> None:
        """Something may have been missed, or forgotten, while the connection was away."""
        for topic in self._topics.values():
            topic.reread()
        for events in self._watched.values():
            for event in events:
                event.set()

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

    async def _pulse(self, group: Sequence[Topic]) -> None:
        asks = await asyncio.gather(*map(self._ask, group))
        for topic, pulse in zip(group, await self._log.pulses(asks), strict=True):
            if isinstance(pulse, Exception) or (pulse is None and self._may_come_back()):
                continue
            topic.heard = time.monotonic()
            topic.take(pulse)

    async def _ask(self, topic: Topic) -> Ask:
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
