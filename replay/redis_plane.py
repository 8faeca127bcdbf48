"""A connection pool to one Redis, and script calls through it; errors become ours here.

A *plane* is one of the two Redis servers that a cluster may use: the log plane and the queue plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import (
    Connection,
    ConnectionPool,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.exceptions import ConnectionError, NoScriptError, RedisError, ResponseError

from replay.errors import LogUnavailable
from replay.redis_scripts import Call

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
FSYNC_S = 2.0
"""How much later than its write ``appendfsync everysec`` may reach the disk."""


class _Attentive(AbstractConnection):
    """A connection that does not lose its task's cancellation, as redis-py 5's does on Python 3.11.

    That one sends under ``wait_for``, which drops a cancellation that arrives as the bytes leave,
    and looks for stray bytes under ``timeout(0)``, which takes a cancellation for its own: the
    cancelled task then runs on for ever. Neither is needed, and each command is cheaper without.
    """

    async def can_read_destructive(self) -> bool:
        reader = self._reader
        return reader is None or reader.at_eof() or bool(getattr(reader, "_buffer", b""))

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        if not self.is_connected:
            await super().connect()  # type: ignore[no-untyped-call]  # redis-py has no hint here
        assert self._writer is not None
        chunks = [command.encode()] if isinstance(command, str) else command
        try:
            async with asyncio.timeout(self.socket_timeout):
                self._writer.writelines([chunks] if isinstance(chunks, bytes) else chunks)
                await self._writer.drain()
        except OSError as error:  # a timeout is one too
            await self.disconnect(nowait=True)
            raise ConnectionError(f"writing to Redis: {error or type(error).__name__}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # half a command may have left
            raise


class _Tcp(_Attentive, Connection):
    pass


class _Tls(_Attentive, SSLConnection):
    pass


class _Unix(_Attentive, UnixDomainSocketConnection):
    pass


_KINDS: dict[type, type[AbstractConnection]] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


def pool(url: str) -> ConnectionPool:
    """Connections with bounded waits and no hidden retries."""
    options: dict[str, Any] = dict(parse_url(url))
    kind = _KINDS[options.pop("connection_class", Connection)]
    return ConnectionPool(
        connection_class=kind,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        **options,
    )


def connect(url: str, *, single: bool = False) -> Redis:
    """A client of one Redis; the caller closes it (``aclose``).

    ``single``: one connection for everything, so that its number tells whether it broke meanwhile.
    """
    redis: Redis = Redis(connection_pool=pool(url), single_connection_client=single)
    redis.auto_close_connection_pool = True
    return redis


@asynccontextmanager
async def translated(operation: str) -> AsyncIterator[None]:
    """Turns what Redis and its client raise into LogUnavailable."""
    try:
        yield
    except (TimeoutError, RedisError, OSError) as error:
        raise LogUnavailable(f"{operation}: {error or type(error).__name__}") from error


class Plane:
    """Script calls on one Redis. Owns nothing but the client it was given."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def call(self, call: Call) -> Any:
        """One script call. Raises LogUnavailable."""
        async with translated(call.script.name):
            try:
                return await self._redis.execute_command(*call.command())
            except NoScriptError:
                await self._redis.script_load(call.script.text)
                return await self._redis.execute_command(*call.command())

    async def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Several script calls in one round trip; a failed one's place holds its exception."""
        if not calls:
            return []
        async with translated(calls[0].script.name):
            replies = await self._pipeline(calls)
            again = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if again:
                for text in {calls[i].script.text for i in again}:
                    await self._redis.script_load(text)
                for i, reply in zip(
                    again, await self._pipeline([calls[i] for i in again]), strict=True
                ):
                    replies[i] = reply
        return [_translate(reply, calls[0].script.name) for reply in replies]

    async def call_durably(self, calls: Sequence[Call]) -> None:
        """Script calls, and returns once what they wrote is on the server's disk.

        A server without WAITAOF (Redis before 7.2) is given as long as ``appendfsync everysec``
        may take. One without an append-only file keeps nothing, so there is nothing to wait for.
        """
        async with translated("settle"), self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.execute_command(*call.command())
            pipeline.execute_command("WAITAOF", 1, 0, round(1000 * FSYNC_S))
            *replies, told = await pipeline.execute(raise_on_error=False)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self.call_all(calls)  # loads the script; nothing was written on that connection
            raise LogUnavailable("settle: the script was forgotten")
        async with translated("settle"):
            policy = await self._redis.config_get("append*")
            if policy.get("appendonly") != "yes" or policy.get("appendfsync") == "no":
                return
            if isinstance(told, ResponseError):
                await asyncio.sleep(0.0 if policy["appendfsync"] == "always" else FSYNC_S)
            elif told[0] < 1:
                raise LogUnavailable("settle: the disk is slow")

    async def _pipeline(self, calls: Sequence[Call]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.execute_command(*call.command())
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies


def _translate(reply: Any, operation: str) -> Any:
    if isinstance(reply, ResponseError):
        error = LogUnavailable(f"{operation}: {reply}")
        error.__cause__ = reply
        return error
    return reply
