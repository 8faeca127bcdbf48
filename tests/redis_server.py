"""A Redis of a test's own that can be put out, held, and made to forget."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from deploy.local.ports import free_block
from deploy.local.redis_server import LOOPBACK, answers, find_program

START_LIMIT_S = 15.0
LOOK_S = 0.01
TAIL_BYTES = 64 * 1024
"""What a power cut may take of an append-only file, for tests."""


def leave_to_the_kernel(url: str) -> None:
    """Lets a Redis sync nothing by itself: an eviction is then answered at once (STOP-7)."""
    with Redis.from_url(url) as db:
        db.config_set("appendfsync", "no")


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody has, and that nobody here was given who may not have taken it yet."""
    while (port := free_block(LOOPBACK, 1)) in _given:
        pass
    _given.add(port)
    return port


class RedisServer:
    """A Redis on one port, its append-only file in ``folder``, as the launcher starts one.

    ``options`` are its own by name: ``RedisServer(folder, appendfsync="always", maxmemory="8mb")``;
    ``program`` is another server than the first that is found.
    """

    def __init__(self, folder: Path, *, program: str = "", **options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Below the ports that clients get: a client that asks for a port where nobody listens
        # could else be given that very port and talk to itself.
        self.port = free_port()
        self.folder = folder
        settings = {
            "port": str(self.port),
            "bind": LOOPBACK,
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
            "aof-use-rdb-preamble": "no",
            **{key.replace("_", "-"): value for key, value in options.items()},
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        self._command = [program or find_program().path, *words]
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"redis://{LOOPBACK}:{self.port}"

    def client(self) -> Redis:
        """A client of it; the caller closes it."""
        return Redis.from_url(self.url)

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Starts it, and waits until it has read its file and answers."""
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(self._command, stdout=log, stderr=log)
        last_s = time.monotonic() + START_LIMIT_S
        while not answers(self.port):
            assert self._server.poll() is None, f"it ended: {self.log()}"
            assert time.monotonic() < last_s, f"it does not start: {self.log()}"
            time.sleep(LOOK_S)  # a server that starts tells nobody

    def stop(self) -> None:
        """Kills it; from then on its port refuses. Nothing where it does not run."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    @contextmanager
    def running(self) -> Iterator[RedisServer]:
        """A block with it."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    @contextmanager
    def out(self) -> Iterator[None]:
        """A block without it."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block in which it accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, after_s: float = 0.0, lost_bytes: int = 0) -> None:
        """Kills it, cuts ``lost_bytes`` off its newest file, and starts it ``after_s`` later.

        A kill alone loses nothing: what was written stands in the kernel.
        """
        self.stop()
        if lost_bytes:
            self.lose(lost_bytes)
        time.sleep(after_s)  # how long it is away is what the caller asks for
        self.start()

    def lose(self, lost_bytes: int = TAIL_BYTES) -> int:
        """Cuts the end of the newest append-only file off; how many bytes it had."""
        assert self._server is None, "a running server would write on after the hole"
        size = self.file.stat().st_size
        os.truncate(self.file, max(0, size - lost_bytes))
        return size

    @property
    def file(self) -> Path:
        """The newest append-only file."""
        files = self.folder.glob("appendonlydir/*.incr.aof")
        return max(files, key=lambda file: int(file.name.split(".")[-3]))

    def log(self) -> str:
        """The last of what it has printed."""
        return (self.folder / "log").read_text("utf-8", "replace")[-2000:]
