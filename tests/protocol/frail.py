"""A cluster to be broken: two Redis servers that can be put out, two models, short limits."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from redis import Redis

from deploy.local.cluster import Cluster
from deploy.local.ports import any_free
from deploy.local.redis_server import answers, find_program

from .wire import Node, until

LEASE_S = 1.0
WINDOW_BYTES = 64 * 1024
MODELS = ("one", "two")
SETTINGS = {
    "REPLAY_SLOTS": "2",
    "REPLAY_LEASE_S": str(LEASE_S),
    "REPLAY_WINDOW_BYTES": str(WINDOW_BYTES),
    "REPLAY_STATUS_TIMEOUT_S": "0.3",
    "REPLAY_SEND_TIMEOUT_S": "2",
    "REPLAY_DRAIN_S": "1",
}


class RedisServer:
    """A Redis on a port of its own, its append-only file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port = any_free("127.0.0.1")
        self._folder = folder
        self._program = find_program().path
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        with (self._folder / "log").open("ab") as log:
            options = ["--port", str(self.port), "--dir", str(self._folder), "--save", ""]
            command = [self._program, *options, "--appendonly", "yes"]
            self._server = subprocess.Popen(command, stdout=log)
        until(lambda: answers(self.port))

    def stop(self) -> None:
        """Kills it; from then on its port refuses."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    @contextmanager
    def out(self) -> Iterator[None]:
        """A block without it."""
        self.stop()
        try:
            yield
        finally:
            self.start()


class Frail:
    """The cluster, a client of each of its nodes, and both planes."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.log_plane = RedisServer(folder / "log-plane")
        self.queue_plane = RedisServer(folder / "queue-plane")
        files = [folder / f"{model}.gguf" for model in MODELS]
        for file in files:
            file.touch()
        models = [word for file in files for word in ("--model", str(file))]
        url = {"REPLAY_QUEUE_REDIS_URL": self.queue_plane.url}
        arguments = ["--engine", "scripted", "--redis-url", self.log_plane.url, *models]
        self.cluster = Cluster(
            folder / "state", *arguments, environment={**environment, **SETTINGS, **url}
        )
        self.nodes: list[Node] = []

    @contextmanager
    def running(self) -> Iterator[Frail]:
        """A block in which it runs."""
        self.log_plane.start()
        self.queue_plane.start()
        try:
            with self.cluster, Redis.from_url(self.log_plane.url) as self.db:
                self.nodes = [Node(url) for url in self.cluster.nodes]
                yield self
        finally:
            for node in self.nodes:
                node.http.close()
            self.log_plane.stop()
            self.queue_plane.stop()

    def well(self) -> Frail:
        """The cluster once all of it is well again after the last test."""
        self.cluster.wait_ready()
        for node in self.nodes:
            until(lambda node=node: _is_well(node))
        return self

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Ends a child; the launcher starts it again."""
        self.cluster.kill(name, number)


def _is_well(node: Node) -> bool:
    try:
        is_ready = node.http.get("/ready").status_code == 200
        return is_ready and len(node.models()) == len(MODELS)
    except httpx.TransportError:
        return False
