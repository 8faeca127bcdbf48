"""One pub/sub connection, on an asyncio protocol of our own.

redis-py's PubSub costs half again as much CPU for each message, says "subscribed" before the server
has confirmed it, and reconnects without a sign, which hides gaps (hazards 3.1, 3.2). Here a
subscription is confirmed before ``subscribe`` returns, and every reconnection is told
(``on_reset``) after all channels are subscribed again, and before any message that came by it; that
one broke is told at once (``on_break``).

Of a Redis Cluster any node will do, because each hears what is published on any; of what sentinels
watch it is the master alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from ssl import SSLContext
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio import SSLConnection
from redis.exceptions import RedisError

from replay.errors import LogUnavailable
from replay.redis_sentinel import Sentinels
from replay.redis_url import Kind, Place, parse

PING_INTERVAL_S = 2.0
"""A master that hangs without closing leaves us deaf, not disconnected; so we ask."""

CONNECT_TIMEOUT_S = 2.0
CONFIRM_TIMEOUT_S = 5.0
RETRY_MIN_S = 0.05
RETRY_MAX_S = 1.0

OnMessage = Callable[[str, bytes], None]
OnReset = Callable[[], None]


class Channels(Protocol):
    """What a hub needs of a pub/sub connection."""

    async def subscribe(self, channel: str) -> None:
        """Returns once the server has confirmed it. Raises LogUnavailable."""
        ...

    def unsubscribe(self, channel: str) -> None:
        """Messages of this channel may still come for a moment."""
        ...


class Subscription:
    """``Channels`` over one plane. Owned by the task that runs ``open``."""

    def __init__(
        self,
        url: str,
        *,
        on_message: OnMessage,
        on_reset: OnReset,
        on_break: OnReset = lambda: None,
    ) -> None:
        self._url = parse(url)
        self._sentinels = Sentinels(self._url) if self._url.kind is Kind.SENTINEL else None
        self._nodes = cycle(self._url.places)
        self._place: Place = ("", 0)
        self._on_message = on_message
        self._on_reset = on_reset
        self._on_break = on_break
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        self._asked: Counter[str] = Counter()  # confirmations to come on this connection
        self._wire: _Wire | None = None
        self._is_reset = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Subscription]:
        """Keeps the connection for as long as the block runs."""
        task = asyncio.create_task(self._run(), name="subscription")
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            for future in self._confirmed.values():
                future.cancel()

    async def subscribe(self, channel: str) -> None:
        future = self._confirmed.get(channel)
        if future is None:
            future = self._confirmed[channel] = asyncio.get_running_loop().create_future()
            if self._wire is not None:
                self._ask(self._wire, channel)
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await asyncio.shield(future)
        except TimeoutError:
            raise LogUnavailable("subscribe") from None

    def unsubscribe(self, channel: str) -> None:
        future = self._confirmed.pop(channel, None)
        if future is None:
            return
        if not future.done():
            future.set_result(None)  # whoever waits for all channels waits for this one no more
        if self._wire is not None:
            self._wire.send("UNSUBSCRIBE", channel)

    def _ask(self, wire: _Wire, channel: str) -> None:
        self._asked[channel] += 1
        wire.send("SUBSCRIBE", channel)

    async def _run(self) -> None:
        pause_s = RETRY_MIN_S
        while True:
            try:
                async with self._connected() as wire:
                    pause_s = RETRY_MIN_S
                    await self._keep(wire)
            except (OSError, RedisError, hiredis.HiredisError):
                pass
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Wire]:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            wire = await self._connect()
        try:
            self._asked.clear()
            self._is_reset = False
            for words in self._greeting():
                wire.send(*words)
            for channel, future in list(self._confirmed.items()):
                if future.done():
                    self._confirmed[channel] = asyncio.get_running_loop().create_future()
                self._ask(wire, channel)
            self._wire = wire
            yield wire
        finally:
            self._wire = None
            wire.close()
            self._on_break()

    async def _connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        options = self._url.options
        if "path" in options:
            return (await loop.create_unix_connection(self._wired, options["path"]))[1]
        self._place = await self._sentinels.master() if self._sentinels else next(self._nodes)
        tls = _tls(options) if "connection_class" in options else None
        return (await loop.create_connection(self._wired, *self._place, ssl=tls))[1]

    def _wired(self) -> _Wire:
        return _Wire(self._on_push)

    def _greeting(self) -> list[tuple[str, ...]]:
        options, words = self._url.options, []
        if "password" in options:
            user = (options["username"],) if "username" in options else ()
            words.append(("AUTH", *user, options["password"]))
        if self._sentinels is not None:
            words.append(("ROLE",))
        return words

    async def _keep(self, wire: _Wire) -> None:
        """Waits for all channels to be confirmed, tells it, then pings until the server is gone."""
        waited_for = [asyncio.shield(future) for future in self._confirmed.values()]
        confirmed: asyncio.Future[Any] = asyncio.gather(*waited_for)
        await asyncio.wait(
            [confirmed, wire.closed],
            timeout=CONFIRM_TIMEOUT_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not confirmed.done():
            return
        self._reset()
        while not wire.closed.done():
            wire.answered = False
            wire.send("PING")
            await asyncio.wait([wire.closed], timeout=PING_INTERVAL_S)
            if not wire.answered:
                return
            if self._sentinels and await self._sentinels.have_moved_from(self._place):
                return

    def _reset(self) -> None:
        self._is_reset = True
        self._on_reset()

    def _on_push(self, reply: Any) -> None:
        kind = reply[0]
        if kind == b"message":
            if not self._is_reset:
                self._reset()
            self._on_message(reply[1].decode(), reply[2])
        elif kind == b"subscribe":
            self._on_confirmed(reply[1].decode())
        elif kind == b"slave" and self._wire is not None:  # what it says of its role
            self._wire.close()

    def _on_confirmed(self, channel: str) -> None:
        """A channel that was left and asked for again is confirmed by the last answer alone."""
        self._asked[channel] -= 1
        if self._asked[channel] > 0:
            return
        del self._asked[channel]
        future = self._confirmed.get(channel)
        if future is not None and not future.done():
            future.set_result(None)


class _Wire(asyncio.Protocol):
    """One connection: bytes in, replies out."""

    def __init__(self, on_push: Callable[[Any], None]) -> None:
        self._on_push = on_push
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, only alike
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.answered = True
        self._reader.feed(data)
        while not self._is_closing() and (reply := self._reader.gets()) is not False:
            if isinstance(reply, list):
                self._on_push(reply)
            elif isinstance(reply, Exception):
                self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, *words: str) -> None:
        if self._transport is not None and not self._is_closing():
            self._transport.write(_packed(words))

    def _is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _tls(options: Mapping[str, Any]) -> SSLContext:
    """As redis-py makes it of the same options."""
    asked = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return SSLConnection(**asked).ssl_context.get()


def _packed(words: tuple[str, ...]) -> bytes:
    encoded = [word.encode() for word in words]
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]
    return b"*%d\r\n%b" % (len(encoded), b"".join(parts))
