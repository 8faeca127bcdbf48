"""A cluster to be broken: two Redis servers that can be put out, two models, short limits."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from redis import Redis

from deploy.local.cluster import Cluster
from tests.redis_server import RedisServer

from .wire import Node, until

LEASE_S = 1.0
WINDOW_BYTES = 64 * 1024
MODELS = ("one", "two")
SETTINGS = {
    "REPLAY_SLOTS": "2",
    "REPLAY_LEASE_S": str(LEASE_S),
    "REPLAY_WINDOW_BYTES": str(WINDOW_BYTES),
    "REPLAY_STATUS_TIMEOUT_S": "0.3",
    "REPLAY_SEND_TIMEOUT_S": "6",
}


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
        with (
            self.log_plane.running(),
            self.queue_plane.running(),
            self.cluster,
            Redis.from_url(self.log_plane.url) as self.db,
        ):
            self.nodes = [Node(url) for url in self.cluster.nodes]
            yield self
            for node in self.nodes:
                node.http.close()

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
        return is_ready and len(node.models()) == len(MODELS) and node.is_sure()
    except httpx.TransportError:
        return False
