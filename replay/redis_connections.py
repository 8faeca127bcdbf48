"""Connections to one Redis server, and the pool that keeps them.

They belong to their task: redis-py 5's connection loses cancellations on Python 3.11, and its pool
lets one connection that hangs hold up all others. Neither sends a command twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError, ReadOnlyError

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0

CONNECTIONS_MAX = 64
"""Of one pool. More commands at once wait their turn: thousands of readers may come back together,
and a Redis server has 10,000 connections for all of its clients."""

PACKER = HiredisRespSerializer()


class Attentive(AbstractConnection):
    """A connection that does not lose its task's cancellation.

    redis-py's sends under ``wait_for``, which drops a cancellation that arrives as the bytes leave,
    and looks for stray bytes under ``timeout(0)``, which takes a cancellation for its own: the
    cancelled task then runs on for ever. Neither is needed, and each command is cheaper without.

    ``on_made`` is called each time the connection was made.
    """

    def __init__(self, *, on_made: Callable[[], None] = lambda: None, **options: Any) -> None:
        super().__init__(**options)
        self._on_made = on_made

    async def connect(self) -> None:
        """Connects, where it is not connected."""
        if self.is_connected:
            return
        try:
            async with asyncio.timeout(self.socket_connect_timeout):
                await super().connect()  # type: ignore[no-untyped-call]  # redis-py has no hint here
        except BaseException:
            await self.disconnect(nowait=True)  # the replies of its greeting may still come
            raise
        self._on_made()

    async def can_read_destructive(self) -> bool:
        reader, writer = self._reader, self._writer
        if reader is None or writer is None or writer.is_closing():  # a reset leaves no EOF
            return True
        return reader.at_eof() or bool(getattr(reader, "_buffer", b""))

    def pack_command(self, *args: Any) -> list[bytes]:
        """Packed in C, which redis-py does only where nothing is asynchronous."""
        packed: list[bytes] = PACKER.pack(*args)
        return packed

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        if not self.is_connected:
            await self.connect()
        assert self._writer is not None
        chunks = [command.encode()] if isinstance(command, str) else command
        try:
            async with asyncio.timeout(self.socket_timeout):
                self._writer.writelines([chunks] if isinstance(chunks, bytes) else chunks)
                await self._writer.drain()
        except (OSError, RuntimeError) as error:
            # A timeout is an OSError; RuntimeError is what uvloop raises after a reset.
            await self.disconnect(nowait=True)
            raise ConnectionError(f"writing to Redis: {error or type(error).__name__}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # half a command may have left
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ReadOnlyError as error:  # what was a master has become a replica
            await self.disconnect(nowait=True)
            raise ConnectionError(f"no longer a master: {error}") from error


class Tcp(Attentive, Connection):
    """By TCP."""


class Tls(Attentive, SSLConnection):
    """By TLS."""


class Unix(Attentive, UnixDomainSocketConnection):
    """By a Unix socket."""


KINDS: dict[type, type[Attentive]] = {
    Connection: Tcp,
    SSLConnection: Tls,
    UnixDomainSocketConnection: Unix,
}


class Pool(ConnectionPool):
    """Connections with bounded waits and no hidden retries.

    ``made`` counts them: who read the same number before and after has used no new one meanwhile.
    """

    def __init__(self, kind: type[AbstractConnection], **options: Any) -> None:
        self.made = 0
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        bounds = {
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            # To say what client this is takes two round trips before the first command.
            "lib_name": None,
            "lib_version": None,
        }
        super().__init__(kind, **{**bounds, **options, "on_made": self._count})

    def _count(self) -> None:
        self.made += 1

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        """A connection that is connected. Unlike redis-py's it makes several at once.

        Raises TimeoutError where none has become free in time.
        """
        async with asyncio.timeout(SOCKET_TIMEOUT_S):
            await self._places.acquire()
        # redis-py has no hint here either
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Takes it back; the next one who waits gets it."""
        try:
            await super().release(connection)
        finally:
            self._places.release()
