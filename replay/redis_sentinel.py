"""The master of a service, as its sentinels know it.

Whoever connects asks them first, and the server that they name must say of itself that it is a
master. While connected one asks again from time to time: a master that hung while another was
promoted answers as a master until it is told, and what it is told until then is lost.
"""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Connection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, RedisError

from replay.redis_connections import KINDS, Attentive, Tcp, Tls
from replay.redis_url import Place, RedisUrl

ANSWER_S = 0.5
LOOK_S = 1.0
"""For how long an answer of the sentinels is believed while a connection lives."""


class Sentinels:
    """The sentinels of one service. Owned by one event loop."""

    def __init__(self, url: RedisUrl) -> None:
        self._service = url.service
        self._places = list(url.places)
        self._kind = KINDS[url.options.get("connection_class", Connection)]
        self._options = {
            **{name: value for name, value in url.options.items() if name.startswith("ssl_")},
            **url.sentinel_options,
            "socket_timeout": ANSWER_S,
            "socket_connect_timeout": ANSWER_S,
        }
        self._master: Place | None = None
        self._asked_s = float("-inf")

    async def master(self) -> Place:
        """Where the master is. Raises redis-py's ConnectionError where no sentinel tells."""
        self._asked_s = time.monotonic()
        for _ in range(len(self._places)):
            place, told = self._places[0], None
            try:
                told = await self._ask(place)
            except (RedisError, OSError):
                pass  # the next one knows as well
            finally:
                if told is None:
                    self._ask_last(place)
            if told is not None:
                self._master = told
                return told
        raise ConnectionError(f"no sentinel knows the master of {self._service!r}")

    def _ask_last(self, place: Place) -> None:
        self._places.remove(place)
        self._places.append(place)

    async def have_moved_from(self, place: Place) -> bool:
        """Whether another server than this is the master; where no sentinel tells, it is not."""
        if time.monotonic() - self._asked_s >= LOOK_S:
            try:
                await self.master()
            except ConnectionError:
                return False
        return self._master is not None and self._master != place

    async def _ask(self, place: Place) -> Place | None:
        host, port = place
        connection: Any = self._kind(host=host, port=port, **self._options)
        try:
            await connection.connect()
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            told = await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
        return (told[0].decode(), int(told[1])) if told else None


class _Mastered(Attentive):
    """A connection to whichever server is the master; its host and port are the last one's."""

    host: str
    port: int

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def connect(self) -> None:
        """Called before every command."""
        if self.is_connected and await self._sentinels.have_moved_from((self.host, self.port)):
            await self.disconnect(nowait=True)
        await super().connect()

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.master()
        await super()._connect()  # type: ignore[no-untyped-call, safe-super]  # redis-py's

    async def on_connect(self) -> None:
        await super().on_connect()
        await self.send_command("ROLE")
        role = await self.read_response()
        if role[0] != b"master":
            raise ConnectionError(f"{self.host}:{self.port} is no master")


class _MasteredTcp(_Mastered, Tcp):
    pass


class _MasteredTls(_Mastered, Tls):
    pass


MASTERED: dict[type[AbstractConnection], type[_Mastered]] = {Tcp: _MasteredTcp, Tls: _MasteredTls}
