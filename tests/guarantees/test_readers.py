"""Readers that are slow, stopped, deaf or many: they cost a bounded amount and disturb nobody."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import httpx
import pytest

from replay.redis_connections import CONNECTIONS_MAX
from tests.benchmarks.idle_readers import Sizes, run
from tests.benchmarks.usage import memory_bytes
from tests.protocol.stored import stored
from tests.protocol.wire import STREAM, WAIT_S, target, until

from .breakable import Breakable

KIB = 1024
SEND_TIMEOUT_S = 2
BUFFER_BYTES = 16 * KIB
SLOW, STOPPED = 20, 5
SLOW_BYTES_PER_S = 1024
READER_BYTES_MAX = 1024 * KIB
"""What a reader that takes nothing may cost a node: a page, its queue, its transport's buffer."""

LONG = "[[tokens=1000 rate=180 burst_every=1 seed=1]]"
"""More than 4 MB in about six seconds."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing such a socket resets the connection."""

ESTABLISHED = "01"


def asking(url: str, name: str, *, from_: int = 0) -> socket.socket:
    """A reader of its own with a small window, which has sent its request."""
    where = urlsplit(url)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    reader.connect((where.hostname, where.port))
    asked = target(STREAM, conv_id=name, from_=from_)
    reader.sendall(f"GET {asked} HTTP/1.1\r\nHost: replay\r\n\r\n".encode())
    return reader


def body_of(raw: bytes) -> tuple[bytes, bool]:
    """The body in what came of a chunked response, and whether it is whole."""
    _, _, rest = raw.partition(b"\r\n\r\n")
    body = b""
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return body, True
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body, False


class Slow:
    """A reader that takes a kibibyte a second. ``raw`` is what it has got."""

    def __init__(self, url: str, name: str) -> None:
        self.socket = asking(url, name)
        self.raw = b""
        self.is_cut = False

    def take(self) -> None:
        """A second's worth, where there is something."""
        if not self.is_cut and select.select([self.socket], [], [], 0)[0]:
            self._receive(SLOW_BYTES_PER_S)

    def take_rest(self) -> bytes:
        """The body up to the cut; the kernel may still have some of it."""
        self.socket.settimeout(WAIT_S)
        while not self.is_cut:
            self._receive(64 * KIB)
        self.socket.close()
        body, is_whole = body_of(self.raw)
        assert not is_whole
        return body

    def _receive(self, size: int) -> None:
        data = b""
        with suppress(ConnectionError):
            data = self.socket.recv(size)
        self.raw += data
        self.is_cut = not data


READER_PROGRAM = """
import socket, sys
host, port, request = sys.argv[1], int(sys.argv[2]), sys.argv[3]
reader = socket.create_connection((host, port))
reader.sendall(request.encode())
try:
    while data := reader.recv(1024):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
except ConnectionError:
    pass
"""


@contextmanager
def reader_process(url: str, name: str, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads a session into a file."""
    where = urlsplit(url)
    request = f"GET {target(STREAM, conv_id=name)} HTTP/1.1\r\nHost: replay\r\n\r\n"
    arguments = [str(where.hostname), str(where.port), request]
    command = [sys.executable, "-IS", "-c", READER_PROGRAM, *arguments]
    with file.open("wb") as output, subprocess.Popen(command, stdout=output) as process:
        try:
            yield process
        finally:
            process.kill()


def took_ms(cluster: Breakable, name: str) -> int:
    """How long the session was, by Redis's clock."""
    fields = stored(cluster.db, name).fields
    return int(fields["ended_ms"]) - int(fields["created_ms"])


def clients(url: str) -> int:
    """How many connections the node at this address has with clients."""
    port = f":{urlsplit(url).port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(row[1].endswith(port) and row[3] == ESTABLISHED for row in rows)


@pytest.mark.guarantee("T10")
def test_slow_stopped_and_deaf_readers(
    cluster_of: Callable[..., Breakable], name: str, tmp_path: Path
) -> None:
    cluster = cluster_of(
        workers=1,
        REPLAY_SEND_TIMEOUT_S=str(SEND_TIMEOUT_S),
        REPLAY_SEND_BUFFER_BYTES=str(BUFFER_BYTES),
    )
    there, elsewhere = cluster.nodes
    pid = cluster.cluster.pids["api-1"] or 0
    quiet = f"{name}-quiet"
    with ExitStack() as stack:
        elsewhere.post(quiet, LONG, stream=True)
        stack.enter_context(elsewhere.posting(name, LONG)).first(1)
        files = [tmp_path / str(number) for number in range(STOPPED)]
        stopped = [stack.enter_context(reader_process(there.url, name, file)) for file in files]
        for process, file in zip(stopped, files, strict=True):
            until(lambda file=file: file.stat().st_size)
            os.kill(process.pid, signal.SIGSTOP)
        before, clients_before = memory_bytes(pid), clients(there.url)
        slow = [Slow(there.url, name) for _ in range(SLOW)]
        deaf = asking(there.url, name)
        peak = 0
        while not elsewhere.found(name)["is_done"]:
            for reader in slow:
                reader.take()
            peak = max(peak, memory_bytes(pid))
            time.sleep(1)  # the pace of a slow reader
        until(lambda: clients(there.url) == clients_before - STOPPED)
        for process in stopped:
            os.kill(process.pid, signal.SIGCONT)
            process.wait()
        got = [reader.take_rest() for reader in slow]
        got += [body_of(file.read_bytes())[0] for file in files]
        deaf.close()
    log = elsewhere.read(name).content
    assert len(log) > 4_000_000
    for start in got:
        assert start and len(start) < len(log)
        assert start + there.read(name, from_=len(start)).content == log
    assert peak - before < (SLOW + STOPPED + 1) * READER_BYTES_MAX
    # Were each of those waited for once, it would be ten times as long.
    assert took_ms(cluster, name) < 3 * took_ms(cluster, quiet)


BIG = "[[tokens=1300 rate=0 burst_every=1 seed=1]]"
"""More than 5 MiB."""

HOGS = 30


@pytest.mark.guarantee("T32")
def test_large_streams_that_are_hung_up_on_together(cluster: Breakable, name: str) -> None:
    node, other = cluster.nodes
    size = len(other.post(name, BIG, stream=True).content)
    assert size > 5 * KIB * KIB
    took_s: list[float] = []
    is_over = Event()

    def ask() -> None:
        while not is_over.is_set():
            began_s = time.monotonic()
            assert httpx.get(node.url + "/ready", timeout=WAIT_S).status_code == 200
            took_s.append(time.monotonic() - began_s)

    with ThreadPoolExecutor(1) as pool:
        asking_on = pool.submit(ask)
        hogs = [asking(node.url, name, from_=number) for number in range(HOGS)]
        for hog in hogs:
            assert hog.recv(KIB).startswith(b"HTTP/1.1 200")
        before = until(lambda: len(took_s))
        for hog in hogs:
            hog.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            hog.close()
        until(lambda: len(took_s) >= before + 20)
        is_over.set()
        asking_on.result()
    assert max(took_s) < READY_S_MAX
    assert len(other.read(name).content) == size


READY_S_MAX = 3.0
"""Thirty times of what it should be at most, since the machine may be busy."""

IDLE = Sizes(readers=500, streams=(50,), rounds=2, round_s=0.5)
IDLE_READER_BYTES_MAX = 24 * KIB
"""With the few MB that a node grows once, whoever reads; ``make bench`` has the true figure."""

REDIS_CONNECTIONS_MAX = 2 * CONNECTIONS_MAX
"""Of a node: those of two planes, and a few."""

WAKE_P99_MS_MAX = 2500


@pytest.mark.guarantee("T11")
@pytest.mark.parametrize("streams", IDLE.streams)
def test_idle_readers_by_the_thousand(streams: int) -> None:
    figures = run(IDLE, streams)
    assert figures.lost == 0
    assert max(figures.bytes_each) < IDLE_READER_BYTES_MAX
    assert max(figures.connections) < REDIS_CONNECTIONS_MAX < IDLE.readers
    assert max(figures.wake_p99_ms) < WAKE_P99_MS_MAX
