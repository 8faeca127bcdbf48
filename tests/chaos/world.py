"""What a plan's topology becomes: a Redis, a cluster, and a link wherever two of them talk."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from redis.asyncio import Redis

from deploy.bootstrap import MODEL, models_dir
from deploy.local.cluster import Cluster, ClusterFailed
from deploy.local.probes import workers_are_ready
from replay.redis_plane import connect_queue
from tests.redis_planes import SentinelPlane
from tests.redis_server import RedisServer

from .launcher import CHILDREN
from .plan import LEASE_S, SMALL_DISK_BYTES, Topology
from .proxy import Link

READY_MAX_S = 120.0
LOOK_S = 0.05
SHIFTED = Path(__file__).parent / "shifted"
SETTINGS = {
    "REPLAY_API_KEYS": "",
    "REPLAY_API_KEYS_FILE": "",
    "REPLAY_QUEUE_REDIS_URL": "",
    "REPLAY_MODELS": "",
    "REPLAY_LEASE_S": str(LEASE_S),
    "REPLAY_STATUS_TIMEOUT_S": "2",
    "REPLAY_PREPARE_TIMEOUT_S": "5",
    "REPLAY_SEND_TIMEOUT_S": "4",
    "REPLAY_TCP_USER_TIMEOUT_S": "4",
    "REPLAY_DRAIN_S": "1",
}


class Impossible(Exception):
    """This machine cannot do what the plan asks for; the text says why."""


def faketime_library() -> Path | None:
    """libfaketime, where it is installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A block in which ``folder`` is a disk of ``SMALL_DISK_BYTES``. Raises Impossible."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "chaos", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise Impossible(f"no small disk: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class World:
    """A running topology. ``links`` are by name: ``client:api-1``, ``redis:worker-2``.

    ``settings`` are environment variables of nodes and workers.
    """

    def __init__(self, folder: Path, topology: Topology, engine: str, **settings: str) -> None:
        self.folder = folder
        self.topology = topology
        self.plane = SentinelPlane(folder / "plane") if topology.is_replicated else None
        self._server = RedisServer(folder / "redis", appendfsync=topology.fsync)
        self.links: dict[str, Link] = {}
        self.nodes: list[str] = []
        self.doomed: set[int] = set()
        """Process ids of those who were told to end, and may take their time."""
        self._engine = engine
        self._settings = settings
        self._cluster: Cluster | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        """A block in which all of it runs; afterwards nothing of it is left. Raises Impossible."""
        async with AsyncExitStack() as stack:
            await self._start_redis(stack)
            children = await self._link_children(stack)
            self._cluster = self._made(children)
            stack.push_async_callback(asyncio.to_thread, self._stop)
            await asyncio.to_thread(self._cluster.start)
            await self.well()
            for name, url in zip(self.topology.node_names, self._cluster.nodes, strict=True):
                where = urlsplit(url)
                assert where.hostname and where.port
                link = await stack.enter_async_context(Link((where.hostname, where.port)))
                self.links[f"client:{name}"] = link
                self.nodes.append(f"http://127.0.0.1:{link.port}")
            yield self

    async def _start_redis(self, stack: AsyncExitStack) -> None:
        if self.plane is not None:
            await asyncio.to_thread(stack.enter_context, self.plane.running())
            return
        if self.topology.has_small_disk:
            self._server.folder.rmdir()
            stack.enter_context(small_disk(self._server.folder))
        stack.callback(self._server.stop)
        await asyncio.to_thread(self._server.start)

    @property
    def redis(self) -> RedisServer:
        """The one Redis, or whoever is the master; then it asks, and may take a moment."""
        return self._server if self.plane is None else self.plane.master()

    @property
    def redis_url(self) -> str:
        """Where the plane is, past all links."""
        return self._server.url if self.plane is None else self.plane.url

    async def _link_children(self, stack: AsyncExitStack) -> dict[str, dict[str, str]]:
        children = {}
        for name in (*self.topology.node_names, *self.topology.worker_names):
            if self.plane is not None:  # sentinels name servers, not links
                children[name] = {"REPLAY_REDIS_URL": self.plane.url}
                continue
            link = await stack.enter_async_context(Link(("127.0.0.1", self._server.port)))
            self.links[f"redis:{name}"] = link
            children[name] = {"REPLAY_REDIS_URL": f"redis://127.0.0.1:{link.port}"}
        if shifted := self.topology.shifted:
            children[shifted] |= _shifted_clock(self.topology.shift_s)
        return children

    def _made(self, children: dict[str, dict[str, str]]) -> Cluster:
        topology = self.topology
        model = f"{MODEL}={models_dir() / MODEL}.gguf" if self._engine == "llama" else "scripted"
        environment = {
            **SETTINGS,
            "REPLAY_SLOTS": str(topology.slots),
            "REPLAY_THREADS": "1",
            CHILDREN: json.dumps(children),
            **self._settings,
        }
        return Cluster(
            self.folder / "state",
            *("--engine", self._engine, "--model", model, "--redis-url", self.redis_url),
            *("--api-nodes", str(topology.nodes), "--workers", str(topology.workers)),
            environment=environment,
            launcher=(sys.executable, "-m", "tests.chaos.launcher"),
        )

    def _stop(self) -> None:
        with suppress(ClusterFailed):  # killed; how long an end may take is tested elsewhere
            self.cluster.stop()

    @property
    def cluster(self) -> Cluster:
        """The processes."""
        assert self._cluster is not None
        return self._cluster

    @property
    def pids(self) -> dict[str, int | None]:
        """Process ids of nodes and workers by name."""
        return {name: pid for name, pid in self.cluster.pids.items() if name != "redis"}

    async def well(self) -> None:
        """Returns once every process runs, and every worker has loaded its model."""
        async with asyncio.timeout(READY_MAX_S):
            while self.doomed and self.doomed & {*self.pids.values()}:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.cluster.wait_ready, READY_MAX_S)
            while not await asyncio.to_thread(self._workers_are_ready):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)

    def _workers_are_ready(self) -> bool:
        pids = {name: pid for name, pid in self.pids.items() if name.startswith("worker")}
        return workers_are_ready(self.redis.url, pids)

    def db(self) -> Redis:
        """A client of Redis itself, past all links; the caller closes it."""
        return connect_queue(self.redis_url)


def _shifted_clock(shift_s: int) -> dict[str, str]:
    library = faketime_library()
    if library is None:
        raise Impossible("no libfaketime is installed")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{shift_s:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": str(SHIFTED),
    }
