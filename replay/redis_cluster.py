"""A client of a Redis Cluster: redis-py's commands, each sent to the node that owns its key.

redis-py 5's own refuses EVALSHA in a pipeline, and one node that is away fails all of it. Here a
pipeline goes to all its nodes at once, and what failed is an exception in its own place.

A command without a key goes where the one before it in its pipeline went: so the clock that is
asked is the one of the key. A slot that is being moved elsewhere (ASK) is not followed, because
our scripts touch several keys of a slot, and half of them may have moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from redis.asyncio import Redis
from redis.commands import AsyncCoreCommands
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError, RedisError, ResponseError

from replay.redis_url import Place

KEYLESS = frozenset({"CLUSTER INFO", "CONFIG GET", "INFO", "PING", "TIME"})
REDIRECTIONS_MAX = 3
"""How often one command goes elsewhere, because its slot has moved."""
UNOWNED = "no master of the Redis Cluster owns the slot"

Command = tuple[tuple[Any, ...], dict[str, Any]]


def key_of(args: Sequence[Any]) -> bytes | None:
    """The key (or channel) that decides where a command goes, None where it has none. Pure."""
    if args[0] in ("EVALSHA", "EVAL"):
        key = args[3] if int(args[2]) else None
    else:
        key = None if args[0] in KEYLESS else args[1]
    return key.encode() if isinstance(key, str) else key


def owners(rows: Sequence[Any], asked: Place) -> list[Place | None]:
    """Who owns each slot, from the answer to CLUSTER SLOTS; ``asked`` may not know its own host."""
    found: list[Place | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_ in rows:
        place = (host.decode() if host else asked[0], int(port))
        found[first : last + 1] = [place] * (last + 1 - first)
    return found


def moved_to(reply: Any) -> Place | None:
    """Where a node sends us that does not own the slot (``MOVED 7 host:port``). Pure."""
    if not isinstance(reply, ResponseError) or not str(reply).startswith("MOVED "):
        return None
    host, _, port = str(reply).split()[2].rpartition(":")
    return host, int(port)


class RedisCluster(AsyncCoreCommands):
    """The client; its opener closes it (``aclose``). Owned by one event loop.

    ``open_node`` makes a client of one node. Nothing is sent twice but what a node has refused
    because it does not own the slot.
    """

    connection_pool: Any = None  # what redis-py's commands expect of any client

    def __init__(self, places: Sequence[Place], open_node: Callable[[Place], Redis]) -> None:
        self._open_node = open_node
        self._nodes: dict[Place, Redis] = {}
        self._named = places
        self._known = list(places)  # who is asked for the map, in this order
        self._owners: list[Place | None] = []  # by slot; empty: to be asked for
        self._asking = asyncio.Lock()

    async def aclose(self) -> None:
        """Closes all connections."""
        for node in self._nodes.values():
            await node.aclose()

    @property
    def nodes(self) -> Sequence[Redis]:
        """The clients of all nodes that were ever asked."""
        return list(self._nodes.values())

    async def masters(self) -> list[Redis]:
        """A client of each master. Raises redis-py's ConnectionError."""
        await self._learn()
        return [self._node(place) for place in dict.fromkeys(self._owners) if place]

    async def node_of(self, key: str) -> Redis:
        """A client of the master that owns the key. Raises redis-py's ConnectionError."""
        await self._learn()
        place = self._owners[key_slot(key.encode())]
        if place is None:
            raise ConnectionError(UNOWNED)
        return self._node(place)

    async def ping(self, **options: Any) -> bool:
        """Whether the cluster says of itself that it serves, else ConnectionError."""
        told = await self.execute_command("CLUSTER INFO")
        if told["cluster_state"] != "ok":
            raise ConnectionError(f"the Redis Cluster's state is {told['cluster_state']}")
        return True

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, as redis-py's client does it."""
        (reply,) = await self.execute([(args, options)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = False) -> Pipeline:
        """Commands that are sent together, one round trip for each node; never a transaction."""
        assert not transaction
        return Pipeline(self)

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """The reply to each command, or the exception in its place."""
        replies: list[Any] = [None] * len(commands)
        left = set(range(len(commands)))
        for _ in range(1 + REDIRECTIONS_MAX):
            await self._learn()
            by_place = self._by_place(commands, left)
            await asyncio.gather(
                *(self._ask(place, commands, mine, replies) for place, mine in by_place.items())
            )
            moved = {i: place for i in left if (place := moved_to(replies[i]))}
            if not moved:
                break
            left = set(moved)
            for place in moved.values():
                self._believe(place)
        return replies

    def _by_place(
        self, commands: Sequence[Command], left: set[int]
    ) -> dict[Place | None, list[int]]:
        grouped: dict[Place | None, list[int]] = {}
        place: Place | None = self._known[0]
        for i, (args, _) in enumerate(commands):
            if (key := key_of(args)) is not None:
                place = self._owners[key_slot(key)]
            if i in left:
                grouped.setdefault(place, []).append(i)
        return grouped

    async def _ask(
        self, place: Place | None, commands: Sequence[Command], mine: list[int], replies: list[Any]
    ) -> None:
        try:
            found = await self._sent(place, [commands[i] for i in mine])
        except (RedisError, OSError) as error:
            self._doubt(place)
            found = [error] * len(mine)
        for i, reply in zip(mine, found, strict=True):
            replies[i] = reply

    async def _sent(self, place: Place | None, commands: Sequence[Command]) -> list[Any]:
        if place is None:
            raise ConnectionError(UNOWNED)
        async with self._node(place).pipeline(transaction=False) as pipeline:
            for args, options in commands:
                pipeline.execute_command(*args, **options)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies

    async def _learn(self) -> None:
        """Asks for the map, where it is not known."""
        failed: Exception | None = None
        async with self._asking:
            for place in list(self._known):
                if self._owners:
                    return
                try:
                    rows = await self._map_of(self._node(place))
                except (RedisError, OSError) as error:
                    failed = error
                    self._doubt(place)
                else:
                    self._owners = owners(rows, place)
                    found = (owner for owner in dict.fromkeys(self._owners) if owner)
                    self._known = list(dict.fromkeys([place, *found, *self._named]))
        if not self._owners:
            raise ConnectionError(f"no node of the Redis Cluster answers: {failed}")

    async def _map_of(self, node: Any) -> Any:
        return await node.execute_command("CLUSTER SLOTS")

    def _doubt(self, place: Place | None) -> None:
        """The map may be old, and this node is the last to be asked for another."""
        self._owners = []
        if place in self._known:
            self._known.remove(place)
            self._known.append(place)

    def _believe(self, place: Place) -> None:
        """The map is old, and this node, to which another has sent us, is the first to be asked."""
        self._owners = []
        self._known = list(dict.fromkeys([place, *self._known]))

    def _node(self, place: Place) -> Redis:
        if place not in self._nodes:
            self._nodes[place] = self._open_node(place)
        return self._nodes[place]


class Pipeline(AsyncCoreCommands):
    """Collects commands, as redis-py's does; ``execute`` sends them."""

    connection_pool: Any = None  # what redis-py's commands expect of any client

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self._commands: list[Command] = []

    async def __aenter__(self) -> Pipeline:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._commands.clear()

    def execute_command(self, *args: Any, **options: Any) -> Pipeline:
        """Adds a command."""
        self._commands.append((args, options))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """All replies; the first error is raised, or stands in its place."""
        replies = await self._cluster.execute(self._commands)
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies
