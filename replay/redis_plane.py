"""A connection pool to one Redis, and script calls through it; errors become ours here.

A *plane* is one of the two Redis servers that a cluster may use: the log plane and the queue plane.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from replay.errors import LogUnavailable
from replay.redis_scripts import Call

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0


def connect(url: str) -> Redis:
    """A client with bounded waits and no hidden retries; the caller closes it (``aclose``)."""
    redis: Redis = Redis.from_url(
        url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S
    )
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
