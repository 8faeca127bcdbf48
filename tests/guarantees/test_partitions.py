"""Partitions, the silent ones too: packets vanish, and nobody is told.

Redis listens on several addresses, and each process knows it by one of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

import httpx
import pytest

from deploy.bootstrap import ROOT
from deploy.local.ports import free_block
from tests.chaos.proxy import Link
from tests.protocol.stored import stored
from tests.protocol.wire import WAIT_S, Cut, Exchange, Node, end_comment, events, text_of, until
from tests.redis_server import RedisServer

from .breakable import OURS, SETTINGS, Breakable, answer_to
from .private_network import dropped, private_network

NEAR = "127.0.0.1"
FAR_NODE = "127.0.0.2"
WORKERS = {"one": "127.0.0.3", "two": "127.0.0.4"}
CLIENT = "127.0.0.5"
"""Of clients that are cut off from the far node."""

DELAY_S = 0.15
"""Each way: a round trip of 300 ms."""

READY_KNOWS_S = 4
PING_S = 1
PINGS_MIN = 2
USER_TIMEOUT_S = 2
PROMPT_ENDS = {"REPLAY_TCP_USER_TIMEOUT_S": str(USER_TIMEOUT_S)}


class Apart:
    """A near node, a far one, and two workers, each of which can be cut off from Redis."""

    def __init__(self, near: Breakable, far_url: str) -> None:
        self.near = near.nodes[0]
        self.far = Node(far_url)
        self.db = near.db
        self.redis_port = near.redis.port

    def worker_of(self, name: str) -> str:
        """The address by which the session's worker knows Redis."""
        until(lambda: stored(self.db, name).fields["state"] == "running")
        return WORKERS[stored(self.db, name).fields["worker"]]


@contextmanager
def process(module: str, folder: Path, **environment: str) -> Iterator[None]:
    """A node or a worker beside those of the launcher."""
    variables = {**os.environ, **OURS, **SETTINGS, **environment}
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", module]
        started = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
    try:
        yield
    finally:
        started.kill()
        started.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """The cluster that is cut in parts."""
    folder = tmp_path_factory.mktemp("apart")
    with ExitStack() as stack:
        stack.enter_context(private_network())
        addresses = " ".join([NEAR, FAR_NODE, *WORKERS.values()])
        redis = RedisServer(folder / "redis", bind=addresses)
        near = stack.enter_context(
            Breakable(folder / "near", nodes=1, workers=0, redis=redis).running()
        )
        for worker, address in WORKERS.items():
            stack.enter_context(
                process(
                    "inference_worker",
                    folder,
                    REPLAY_REDIS_URL=f"redis://{address}:{redis.port}",
                    REPLAY_WORKER=worker,
                    REPLAY_MODELS="scripted=/scripted",
                    REPLAY_ENGINE="scripted",
                )
            )
        port = free_block(NEAR, 1)
        far = {"REPLAY_REDIS_URL": f"redis://{FAR_NODE}:{redis.port}", "REPLAY_PORT": str(port)}
        stack.enter_context(
            process("api", folder, REPLAY_NODE="far", REPLAY_HOST="0.0.0.0", **PROMPT_ENDS, **far)
        )
        made = Apart(near, f"http://{NEAR}:{port}")
        stack.callback(made.far.http.close)
        for node in (made.near, made.far):
            until(lambda node=node: is_well(node))
        yield made


def is_well(node: Node) -> bool:
    """Whether it is ready and knows both workers."""
    try:
        is_ready = node.http.get("/ready").status_code == 200
        return is_ready and node.http.get("/props").json()["workers"] == len(WORKERS)
    except httpx.TransportError:
        return False


def said(log: bytes) -> str:
    """The text of a whole log."""
    return text_of(events(log))


def chain(cluster: Apart, name: str, reader: Exchange) -> bytes:
    """What a reader gets in all that goes on at the near node, should it be cut."""
    with suppress(Cut):
        return reader.whole()
    start = reader.data
    return start + cluster.near.read(name, from_=len(start)).content


@pytest.mark.guarantee("T13")
@pytest.mark.parametrize(("away_s", "tokens"), [(1, 150), (6, 400)])
def test_a_node_that_is_cut_off_from_redis(
    cluster: Apart, name: str, away_s: float, tokens: int
) -> None:
    words = f"{name} [[tokens={tokens} rate=30 seed=1]]"
    with cluster.near.posting(name, words) as post:
        post.first(1)
        with cluster.far.reading(name) as reader:
            reader.first(1000)
            with dropped(FAR_NODE):
                end_s = time.monotonic() + away_s
                while time.monotonic() < end_s:
                    post.chunk()
                if away_s > READY_KNOWS_S:
                    assert cluster.far.http.get("/ready").status_code == 503
            assert reader.whole() == post.whole()
    assert said(post.data) == answer_to(words)
    until(lambda: is_well(cluster.far))
    assert cluster.far.read(name).content == post.data


@pytest.mark.guarantee("T13")
def test_a_worker_that_is_cut_off_from_redis_is_replaced(cluster: Apart, name: str) -> None:
    words = f"{name} [[tokens=150 rate=30 seed=1]]"
    with cluster.far.posting(name, words) as post:
        post.first(1000)
        with dropped(cluster.worker_of(name)):
            until(lambda: stored(cluster.db, name).takeovers)
        log = post.whole()
    assert said(log) == answer_to(words)
    until(lambda: all_slots_are_free(cluster.near))
    assert stored(cluster.db, name).log == log
    assert cluster.near.read(name).content == log


def all_slots_are_free(node: Node) -> bool:
    """Whether nobody generates anything, on any worker."""
    [model] = node.models()
    return bool(model["meta"]["slots"] == model["meta"]["slots_free"] == 4 * len(WORKERS))


def answering(node: Node, name: str, words: str) -> Exchange:
    """A POST that is answered; while the node says "later", it is asked again."""

    def asked() -> Exchange | None:
        post = node.posting(name, words)
        if post.status != 503:
            return post
        post.close()
        return None

    return until(asked)


@pytest.mark.guarantee("T13")
def test_a_network_that_loses_packets(cluster: Apart, name: str) -> None:
    names = [f"{name}-{number}" for number in range(4)]
    words = [f"{one} [[tokens=100 rate=30 seed=1]]" for one in names]
    with dropped(FAR_NODE, *WORKERS.values(), share=0.05), ExitStack() as stack:
        posts = [
            stack.enter_context(answering(cluster.far, *pair))
            for pair in zip(names, words, strict=True)
        ]
        logs = [chain(cluster, one, post) for one, post in zip(names, posts, strict=True)]
    assert [said(log) for log in logs] == [answer_to(asked) for asked in words]


@pytest.mark.guarantee("T13")
def test_a_redis_that_is_far_away(cluster: Apart, name: str, tmp_path: Path) -> None:
    words = f"{name} [[tokens=100 rate=50 seed=1]]"
    with delayed(cluster.redis_port) as slow_port:
        port = free_block(NEAR, 1)
        slow = {"REPLAY_REDIS_URL": f"redis://{NEAR}:{slow_port}", "REPLAY_PORT": str(port)}
        node = Node(f"http://{NEAR}:{port}")
        with process("api", tmp_path, REPLAY_NODE="slow", **slow), node.http:
            until(lambda: is_well(node))
            with node.posting(name, words) as post:
                log = post.whole()
            assert said(log) == answer_to(words)
            assert cluster.near.read(name).content == log
            assert node.read(name, from_=len(log) - 1).content == log[-1:]
            with node.posting(name, "[[tokens=100000 rate=50]]") as post:
                post.first(1)
                assert cluster.near.stop(name, keep="true").status_code == 204
                assert post.whole().endswith(end_comment("stopped", "client"))


@contextmanager
def delayed(port: int) -> Iterator[int]:
    """Another port for the same, where everything takes ``DELAY_S`` each way."""
    link, is_over = Link((NEAR, port)), asyncio.Event()
    link.delay_s = DELAY_S
    loop = asyncio.new_event_loop()

    async def serve(is_open: Event) -> None:
        async with link:
            is_open.set()
            await is_over.wait()
        await asyncio.sleep(0)  # sockets are closed in the turn after

    is_open = Event()
    thread = Thread(target=loop.run_until_complete, args=[serve(is_open)])
    thread.start()
    try:
        assert is_open.wait(WAIT_S)
        yield link.port
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join(WAIT_S)
        loop.close()


@pytest.mark.guarantee("T13")
def test_a_reader_that_has_silently_gone_is_let_go_of(cluster: Apart, name: str) -> None:
    words = f"{name} [[tokens=200 rate=100 pause_at=20 pause_s=30 seed=1]]"
    where = urlsplit(cluster.far.url)
    with cluster.near.posting(name, words, sse_ping_interval=PING_S) as post:
        post.first(1)
        with socket.create_connection((where.hostname, where.port), 10, (CLIENT, 0)) as gone:
            gone.sendall(f"GET /v1/stream?conv_id={name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert gone.recv(1000)
            with dropped(CLIENT):
                until(lambda: not connections_with(CLIENT), 10 * (3 * PING_S + USER_TIMEOUT_S))
        assert not cluster.near.found(name)["is_done"]
        cluster.near.erase(name)
        assert post.whole().count(b":\n\n") >= PINGS_MIN


def connections_with(address: str) -> int:
    """How many connections a server here has with clients of this address."""
    peer = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].startswith(peer) for line in lines)
