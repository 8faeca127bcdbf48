"""A client of a plane, and script calls through it; errors become ours here.

A *plane* is the Redis of the logs or the one of the queues: a server, the master that sentinels
know, or, for the logs, a Redis Cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Connection, Redis
from redis.exceptions import NoScriptError, RedisError

from replay import redis_disk
from replay.errors import LogUnavailable
from replay.redis_cluster import RedisCluster
from replay.redis_connections import KINDS, Pool
from replay.redis_scripts import Call, ms
from replay.redis_sentinel import MASTERED, Sentinels
from replay.redis_url import NO_QUEUE_ON_CLUSTER, Kind, Place, RedisUrl, parse

REPLICAS_S = 2.0
"""How long is waited for replicas to have a copy."""


Client = Redis | RedisCluster
"""What ``connect`` gives: redis-py's commands, whatever the plane is."""


def pool(url: str) -> Pool:
    """Connections to one server or to the master that sentinels know. Raises ValueError."""
    parsed = parse(url)
    if parsed.kind is Kind.CLUSTER:
        raise ValueError(NO_QUEUE_ON_CLUSTER)
    return _pool(parsed, None)


def connect(url: str) -> Client:
    """A client of a plane; the caller closes it (``aclose``). Raises ValueError."""
    parsed = parse(url)
    if parsed.kind is Kind.CLUSTER:
        return RedisCluster(parsed.places, lambda place: _client(_pool(parsed, place)))
    return _client(_pool(parsed, None))


def connect_queue(url: str) -> Redis:
    """The same for the queue plane, which is never a Redis Cluster. Raises ValueError."""
    return _client(pool(url))


def connections_made(client: Client) -> int:
    """How many connections the client has made: it grows with every break."""
    nodes = client.nodes if isinstance(client, RedisCluster) else [client]
    pools: Iterable[Any] = (node.connection_pool for node in nodes)
    return sum(pool.made for pool in pools)


async def servers(client: Client) -> list[Redis]:
    """A client of every master of the plane, for what has no key."""
    return await client.masters() if isinstance(client, RedisCluster) else [client]


async def server_of(client: Client, key: str) -> Redis:
    """A client of the master that owns the key, for what must be said on its connection."""
    return await client.node_of(key) if isinstance(client, RedisCluster) else client


async def clock_ms(client: Client, key: str) -> float:
    """The clock by which that key's times are written: of the Redis where it lies; with µs."""
    seconds, micros = await (await server_of(client, key)).time()
    return float(seconds * 1000 + micros / 1000)


def _client(pool: Pool) -> Redis:
    redis: Redis = Redis(connection_pool=pool)
    redis.auto_close_connection_pool = True
    return redis


def _pool(url: RedisUrl, place: Place | None) -> Pool:
    options = dict(url.options)
    kind = KINDS[options.pop("connection_class", Connection)]
    if url.kind is Kind.SENTINEL:
        return Pool(MASTERED[kind], sentinels=Sentinels(url), **options)
    if "path" not in options:
        options["host"], options["port"] = place or url.places[0]
    return Pool(kind, **options)


@asynccontextmanager
async def translated(operation: str) -> AsyncIterator[None]:
    """Turns what Redis and its client raise into LogUnavailable."""
    try:
        yield
    except (TimeoutError, RedisError, OSError) as error:
        raise LogUnavailable(f"{operation}: {error or type(error).__name__}") from error


class Plane:
    """Script calls on one plane. Owns nothing but the client it was given."""

    def __init__(self, redis: Client) -> None:
        self._client = redis
        self._redis: Any = redis

    async def call(self, call: Call) -> Any:
        """One script call. Raises LogUnavailable."""
        async with translated(call.script.name):
            try:
                return await self._redis.execute_command(*call.command())
            except NoScriptError:
                return await self._redis.execute_command(*call.loading())

    async def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Several script calls in one round trip; a failed one's place holds its exception."""
        if not calls:
            return []
        async with translated(calls[0].script.name):
            replies = await _piped(self._redis, [call.command() for call in calls])
            again = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if again:
                repeated = await _piped(self._redis, [calls[i].loading() for i in again])
                for i, reply in zip(again, repeated, strict=True):
                    replies[i] = reply
        return [_translate(reply, calls[0].script.name) for reply in replies]

    async def call_durably(self, calls: Sequence[Call]) -> None:
        """Script calls, and returns once what they wrote is on the disks that the plane promises.

        That is the server's own, and ``min-replicas-to-write`` replicas' memory. One without an
        append-only file keeps nothing, so there is nothing to wait for.
        """
        async with translated("settle"):
            by_server: dict[Redis, list[Call]] = {}
            for call in calls:
                server = await server_of(self._client, call.keys[0])
                by_server.setdefault(server, []).append(call)
            told = await asyncio.gather(
                *(_settle(server, mine) for server, mine in by_server.items()),
                return_exceptions=True,
            )
        for error in told:
            if error is not None:
                raise error


async def _settle(server: Any, calls: Sequence[Call]) -> None:
    """``call_durably`` for the calls of one server: on one connection, which then waits."""
    async with translated("settle"):
        policy = await redis_disk.durability_of(server)
        replicas = int(policy.get("min-replicas-to-write", 0))
        sent = [call.loading() for call in calls]
        *replies, copies = await _piped(server, [*sent, ("WAIT", replicas, ms(REPLICAS_S))])
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        if copies < replicas:
            raise LogUnavailable("settle: the replicas are slow")
        if policy.get("appendonly") == "yes" and policy.get("appendfsync") == "everysec":
            await redis_disk.synced(server)


async def _piped(client: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies


def _translate(reply: Any, operation: str) -> Any:
    if isinstance(reply, Exception):
        error = LogUnavailable(f"{operation}: {reply}")
        error.__cause__ = reply
        return error
    return reply
