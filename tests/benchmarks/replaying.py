"""How fast a finished session of 1 MB is replayed: over HTTP, beside what Redis and uvicorn can.

The session is as a worker left it: some four thousand entries of a few hundred bytes.
"""

from __future__ import annotations

import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import hiredis

from deploy.local.cluster import Cluster
from replay import keys
from replay.identity import SessionRef
from tests.benchmarks.companion import Companion
from tests.benchmarks.http_socket import HEADERS_END, HttpSocket
from tests.benchmarks.live_sessions import EVENT_BYTES
from tests.benchmarks.report import Row
from tests.benchmarks.usage import cpu_s

NAME = "replayed"
READ_BYTES = 1 << 18
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the session is, and how often it is read."""

    events: int = 4000
    reads: int = 60


TINY = Sizes(events=400, reads=3)


class RawRedis:
    """One connection, blocking, parsed by hiredis and by nothing else."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._reader = hiredis.Reader()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def xrange(self, key: str) -> float:
        """Seconds for a whole stream in one reply."""
        began_s = time.perf_counter()
        words = [b"XRANGE", key.encode(), b"-", b"+"]
        parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        self._socket.sendall(b"*%d\r\n%b" % (len(words), b"".join(parts)))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(READ_BYTES))
        if isinstance(reply, Exception):
            raise reply
        return time.perf_counter() - began_s


def measure(sizes: Sizes) -> list[Row]:
    """The rows of this benchmark."""
    size = sizes.events * EVENT_BYTES
    took: dict[str, list[float]] = {"node": [], "xrange": [], "pages": [], "static": []}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Cluster(Path(folder), "--api-nodes", "1", "--workers", "0") as cluster,
        Companion("live_sessions", cluster.redis_url) as sessions,
        Companion("floor_server", cluster.redis_url) as uvicorn,
        Companion("redis_floors", cluster.redis_url) as client,
    ):
        path = sessions.ask("fill", name=NAME, events=sizes.events)
        redis = RawRedis(cluster.redis_url)
        node = HttpSocket(cluster.nodes[0])
        static = HttpSocket(f"http://127.0.0.1:{uvicorn.ask('port')}")
        node_pid = cluster.pids["api-1"]
        assert node_pid is not None
        check(node, size)
        spent_s = 0.0
        for _ in range(sizes.reads):
            took["xrange"].append(redis.xrange(keys.stream(SessionRef.from_path(path))))
            before_s = cpu_s(node_pid)
            took["node"].append(node.get(f"/v1/stream?conv_id={NAME}&from=0").took_s)
            spent_s += cpu_s(node_pid) - before_s
            took["pages"].append(client.ask("pages", path=path))
            took["static"].append(static.get(f"/static/{size}").took_s)
        for connection in (redis, node, static):
            connection.close()
    return [
        *rows("GET from the node", took["node"], size),
        Row("node's CPU for it", [spent_s / sizes.reads * 1000], "ms"),
        *rows("RedisLog.read, page by page", took["pages"], size, is_floor=True),
        *rows("raw XRANGE, hiredis, one reply", took["xrange"], size, is_floor=True),
        *rows("uvicorn, one static body", took["static"], size, is_floor=True),
    ]


def rows(what: str, took_s: list[float], size: int, *, is_floor: bool = False) -> list[Row]:
    """The time and the speed of one way to read. Pure."""
    return [
        Row(what, [took * 1000 for took in took_s], "ms", is_floor),
        Row(f"{what}, speed", [size / MEGABYTE / took for took in took_s], "MB/s", is_floor),
    ]


def check(node: HttpSocket, size: int) -> None:
    """Raises ValueError where the node does not send the whole session."""
    body = node.get(f"/v1/stream?conv_id={NAME}&from=0").raw.partition(HEADERS_END)[2]
    if body.count(b"data: ") != size // EVENT_BYTES:
        raise ValueError(f"{body.count(b'data: ')} of {size // EVENT_BYTES} events came")
