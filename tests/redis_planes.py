"""Planes of several real servers on loopback: a master with sentinels, and a Redis Cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.cluster import RedisCluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError
from redis.sentinel import Sentinel

from deploy.local.redis_server import LOOPBACK, find_program
from tests.protocol.wire import until
from tests.redis_server import RedisServer, free_port

LIMIT_S = 40.0
SERVICE = "main"
DOWN_AFTER_MS = 1000
FAILOVER_MS = 3000
NODE_TIMEOUT_MS = 2000
MASTERS = 3


def in_the_end(holds: Callable[[], bool]) -> None:
    """Waits for servers that start, or have just been told to be something else."""

    def does() -> bool:
        try:
            return holds()
        except RedisError:
            return False

    until(does, LIMIT_S)


def ask(server: RedisServer, *words: str | int) -> Any:
    """What a server answers to one command."""
    with Redis.from_url(server.url, socket_timeout=2, socket_connect_timeout=2) as client:
        return client.execute_command(*words)


def _data_server(folder: Path, **options: str) -> RedisServer:
    """What it has acknowledged it still has after a kill; ``everysec`` loses some now and then."""
    at_once = {"repl_diskless_sync_delay": "0"}
    return RedisServer(folder, appendfsync="always", **at_once, **options)


class _Sentinel(RedisServer):
    """A sentinel, which is told by a file what it watches, and writes into it what it learns."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        super().__init__(folder)
        conf = folder / "sentinel.conf"
        conf.write_text(
            f"port {self.port}\nbind {LOOPBACK}\ndir {folder}\n"
            f"sentinel monitor {SERVICE} {LOOPBACK} {master.port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} {FAILOVER_MS}\n"
        )
        self._command = [find_program().path, str(conf), "--sentinel"]


class SentinelPlane:
    """A master, its replica and three sentinels, in the block of ``running``."""

    def __init__(self, folder: Path) -> None:
        master = _data_server(folder / "0")
        follows = f"{LOOPBACK} {master.port}"
        self.servers = [master, _data_server(folder / "1", replicaof=follows)]
        self.sentinels = [_Sentinel(folder / f"sentinel-{number}", master) for number in range(3)]
        self.places = [f"{LOOPBACK}:{one.port}" for one in self.sentinels]
        self.url = f"redis+sentinel://{','.join(self.places)}/{SERVICE}"

    @contextmanager
    def running(self) -> Iterator[SentinelPlane]:
        """A block with all of it, whole."""
        with ExitStack() as stack:
            for server in (*self.servers, *self.sentinels):
                stack.enter_context(server.running())
            self.wait_whole()
            yield self

    def client(self) -> Redis:
        """A client of whoever is the master; the caller closes it."""
        places = [(LOOPBACK, one.port) for one in self.sentinels]
        return Sentinel(places, socket_timeout=2).master_for(SERVICE)

    def role(self, server: RedisServer) -> str:
        """What a server says that it is."""
        return str(ask(server, "ROLE")[0].decode())

    def master(self) -> RedisServer:
        """Whom the sentinels that agree name."""
        told = {
            int(ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
            for sentinel in self.sentinels
        }
        (found,) = [one for one in self.servers if {one.port} == told] or [None]
        if found is None:
            raise RedisError("the sentinels do not agree")
        return found

    def leads_another_than(self, server: RedisServer) -> bool:
        """Whether the sentinels name another master, and it has taken the office."""
        return self.master() is not server and self.role(self.master()) == "master"

    def wait_whole(self) -> None:
        """Until there are a master, a replica of it that has all, and sentinels that know it."""
        in_the_end(self._is_whole)

    def _is_whole(self) -> bool:
        master = self.master()
        return (
            sorted(self.role(one) for one in self.servers) == ["master", "slave"]
            and self.role(master) == "master"
            and len(ask(master, "ROLE")[2]) == 1
            and all(self._knows_all(sentinel) for sentinel in self.sentinels)
        )

    def _knows_all(self, sentinel: RedisServer) -> bool:
        told = ask(sentinel, "SENTINEL MASTER", SERVICE)
        return bool(told["num-slaves"] == 1 and told["num-other-sentinels"] == 2)


def _slots(number: int) -> tuple[int, int]:
    """The first and the last slot of a master."""
    share = REDIS_CLUSTER_HASH_SLOTS / MASTERS
    return round(share * number), round(share * (number + 1)) - 1


class ClusterPlane:
    """Three masters that share the slots and a replica of the last, in a block of ``running``."""

    def __init__(self, folder: Path) -> None:
        self._buses = [str(free_port()) for _ in range(MASTERS + 1)]
        *self.servers, self.replica = [
            _data_server(
                folder / str(number),
                cluster_enabled="yes",
                cluster_port=bus,
                cluster_node_timeout=str(NODE_TIMEOUT_MS),
            )
            for number, bus in enumerate(self._buses)
        ]
        self.url = "redis+cluster://" + ",".join(f"{LOOPBACK}:{one.port}" for one in self.servers)

    @contextmanager
    def running(self) -> Iterator[ClusterPlane]:
        """A block with all of it, whole."""
        with ExitStack() as stack:
            servers = [*self.servers, self.replica]
            for server in servers:
                stack.enter_context(server.running())
            for number, server in enumerate(self.servers):
                ask(server, "CLUSTER", "ADDSLOTSRANGE", *_slots(number))
                ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for server, bus in list(zip(servers, self._buses, strict=True))[1:]:
                ask(servers[0], "CLUSTER", "MEET", LOOPBACK, server.port, bus)
            self.wait_whole()
            master = ask(self.servers[-1], "CLUSTER", "MYID").decode()
            in_the_end(lambda: bool(ask(self.replica, "CLUSTER", "REPLICATE", master)))
            in_the_end(lambda: ask(self.servers[-1], "WAIT", 1, 100) == 1)
            yield self

    def client(self) -> RedisCluster:
        """A client of all of it; the caller closes it."""
        return RedisCluster(LOOPBACK, self.servers[0].port)

    def owner(self, key: str) -> RedisServer:
        """The master that has this key."""
        slot = key_slot(key.encode())
        return next(one for one, slots in self.masters().items() if slot in slots)

    def masters(self) -> dict[RedisServer, range]:
        """Who is a master, and of which slots."""
        by_port = {one.port: one for one in (*self.servers, self.replica)}
        rows = ask(self.servers[0], "CLUSTER SLOTS")
        return {by_port[port]: range(first, end + 1) for first, end, (_, port, *_), *_ in rows}

    def wait_whole(self) -> None:
        """Until every master serves and knows all the others."""
        in_the_end(self._is_whole)

    def _is_whole(self) -> bool:
        return all(
            ask(one, "CLUSTER INFO")["cluster_state"] == "ok"
            and len(ask(one, "CLUSTER SLOTS")) == MASTERS
            for one in (*self.servers, self.replica)
        )

    def flush(self) -> None:
        """Empties all of it."""
        for one in self.masters():
            ask(one, "FLUSHALL")

    def immortal(self) -> list[bytes]:
        """Keys that have no TTL."""
        found = []
        for one in self.masters():
            with Redis.from_url(one.url) as client:
                found += [key for key in client.scan_iter() if client.ttl(key) == -1]
        return found
