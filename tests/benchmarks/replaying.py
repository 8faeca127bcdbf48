"""How fast a finished session of 1 MB is replayed, and what it takes in Redis.

The session is as a worker leaves it, some five thousand entries of a few hundred bytes, and then
compacted. HTTP stands beside what Redis and uvicorn can, and beside llama-server, in turns.
"""

from __future__ import annotations

import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import hiredis

from deploy.local.cluster import Cluster
from replay import keys
from replay.identity import SessionRef
from tests.benchmarks.companion import Companion
from tests.benchmarks.http_socket import HEADERS_END, Exchange, HttpSocket
from tests.benchmarks.peer import Peer, described, finished_answer
from tests.benchmarks.report import Row
from tests.benchmarks.usage import cpu_s

NAME = "replayed"
GET = f"/v1/stream?conv_id={NAME}&from=0"
READ_BYTES = 1 << 18
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the session is, and how often it is read in each form."""

    tokens: int = 5000
    reads: int = 60


TINY = Sizes(tokens=400, reads=3)


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


@dataclass(frozen=True, slots=True)
class Ways:
    """All ways to read one session, each in seconds."""

    node: HttpSocket
    node_pid: int
    static: HttpSocket
    client: Companion
    redis: RawRedis
    peer: Peer | None
    path: str
    size: int

    def get(self, coding: str = "identity") -> float:
        """From the node."""
        return self.node.get(GET, coding=coding).took_s

    def gzipped(self) -> float:
        """From the node, for a client that accepts gzip."""
        return self.get("gzip")

    def awake(self, way: Callable[[], float]) -> float:
        """From a node that has just answered something else, as it is with ``Peer.replay``."""
        self.node.get("/health")
        return way()

    def cpu(self, coding: str = "identity") -> float:
        """The node's own time for one."""
        before_s = cpu_s(self.node_pid)
        self.get(coding)
        return cpu_s(self.node_pid) - before_s

    def pages(self) -> float:
        """As the hub reads it."""
        took_s: float = self.client.ask("pages", path=self.path)
        return took_s

    def xrange(self) -> float:
        """All that Redis has."""
        return self.redis.xrange(keys.stream(SessionRef.from_path(self.path)))

    def body(self) -> float:
        """As many bytes from uvicorn."""
        return self.static.get(f"/static/{self.size}").took_s


def measure(sizes: Sizes) -> list[Row]:
    """The rows of this benchmark."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Cluster(Path(folder), "--api-nodes", "1", "--workers", "0") as cluster,
        Companion("live_sessions", cluster.redis_url) as sessions,
        Companion("floor_server", cluster.redis_url) as uvicorn,
        Companion("redis_floors", cluster.redis_url) as client,
    ):
        filled = sessions.ask("fill", name=NAME, tokens=sizes.tokens)
        path, size = filled["path"], filled["size"]
        node_pid = cluster.pids["api-1"]
        assert node_pid is not None
        with finished_answer(size) as peer:
            static = HttpSocket(f"http://127.0.0.1:{uvicorn.ask('port')}")
            redis = RawRedis(cluster.redis_url)
            node = HttpSocket(cluster.nodes[0])
            ways = Ways(node, node_pid, static, client, redis, peer, path, size)
            before = whole(node.get(GET), size)
            rows = entries_rows(ways, sizes.reads, sessions.ask("memory", path=path) / sizes.tokens)
            took_s = sessions.ask("compact", path=path)
            assert whole(node.get(GET), size) == whole(node.get(GET, coding="gzip"), size) == before
            rows += blocks_rows(ways, sizes.reads, sessions.ask("memory", path=path) / sizes.tokens)
            for connection in (redis, node, static):
                connection.close()
    return [*rows, Row("the compaction", [took_s * 1000], "ms", note=f"{size:,} bytes")]


def entries_rows(ways: Ways, reads: int, memory: float) -> list[Row]:
    """The session as its worker left it."""
    get, pages, xrange, body = in_turns(reads, ways.get, ways.pages, ways.xrange, ways.body)
    return [
        *speed_rows("GET, as its worker left it", get, ways.size),
        Row("node's CPU for it", [mean_ms(reads, ways.cpu)], "ms"),
        *speed_rows("RedisLog.read, page by page", pages, ways.size, is_floor=True),
        *speed_rows("raw XRANGE, hiredis, one reply", xrange, ways.size, is_floor=True),
        *speed_rows("uvicorn, one static body", body, ways.size, is_floor=True),
        Row("Redis for a token, as its worker left it", [memory], "bytes"),
        *peer_rows(ways, reads, {"GET, as its worker left it": ways.get}),
    ]


def blocks_rows(ways: Ways, reads: int, memory: float) -> list[Row]:
    """The same session, compacted."""

    ours = {"GET, compacted": ways.get, "GET, compacted, gzipped": ways.gzipped}
    get, zipped, pages, body = in_turns(reads, ways.get, ways.gzipped, ways.pages, ways.body)
    sent = len(ways.node.get(GET, coding="gzip").chunked_body)
    return [
        *speed_rows("GET, compacted", get, ways.size),
        Row("node's CPU for it", [mean_ms(reads, ways.cpu)], "ms"),
        *speed_rows("GET, compacted, gzipped", zipped, ways.size),
        Row("node's CPU for it", [mean_ms(reads, lambda: ways.cpu("gzip"))], "ms"),
        *speed_rows("RedisLog.read, compacted", pages, ways.size, is_floor=True),
        *speed_rows("uvicorn, one static body", body, ways.size, is_floor=True),
        Row("bytes sent, gzipped", [100 * sent / ways.size], "% of them"),
        Row("Redis for a token, compacted", [memory], "bytes"),
        *peer_rows(ways, reads, ours),
    ]


def peer_rows(ways: Ways, reads: int, ours: Mapping[str, Callable[[], float]]) -> list[Row]:
    """Ours and llama-server's replay of as many bytes, in turns."""
    if ways.peer is None:
        return [Row("llama-server", [], "ms", note="left out: only `make bench` installs it")]
    before_s = cpu_s(ways.peer.pid)
    awake = [partial(ways.awake, way) for way in ours.values()]
    *taken, theirs = in_turns(reads, *awake, ways.peer.replay)
    mean_s = (cpu_s(ways.peer.pid) - before_s) / reads
    rows = speed_rows(f"{described()}, as many bytes", theirs, ways.size)
    rows.append(Row("its CPU for it", [mean_s * 1000], "ms"))
    for what, took in zip(ours, taken, strict=True):
        times = [its / own for its, own in zip(theirs, took, strict=True)]
        rows.append(Row(f"{what}, in turns with it", [own * 1000 for own in took], "ms"))
        rows.append(Row("its time over that, pair by pair", times, "times"))
    return rows


def in_turns(count: int, *ways: Callable[[], float]) -> list[list[float]]:
    """What each took, asked one after another so many times."""
    took = [[way() for way in ways] for _ in range(count)]
    return [list(column) for column in zip(*took, strict=True)]


def mean_ms(count: int, seconds: Callable[[], float]) -> float:
    """The mean, since the system counts CPU time in hundredths of a second."""
    return sum(seconds() for _ in range(count)) / count * 1000


def speed_rows(what: str, took_s: list[float], size: int, *, is_floor: bool = False) -> list[Row]:
    """The time and the speed of one way to read. Pure."""
    return [
        Row(what, [took * 1000 for took in took_s], "ms", is_floor),
        Row(f"{what}, speed", [size / MEGABYTE / took for took in took_s], "MB/s", is_floor),
    ]


def whole(exchange: Exchange, size: int) -> bytes:
    """The session's bytes. Raises ValueError where they are not all there. Pure."""
    body = exchange.chunked_body
    if b"content-encoding: gzip" in exchange.raw.partition(HEADERS_END)[0].lower():
        body = zlib.decompress(body, zlib.MAX_WBITS | 16)
    if len(body) != size:
        raise ValueError(f"{len(body)} of {size} bytes came")
    return body
