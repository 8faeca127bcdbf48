"""What was erased stays erased: the power fails as soon as the answer is there."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.local.redis_server import candidates
from tests.protocol.wire import error_of, until
from tests.redis_server import RedisServer

from .breakable import Breakable

LOST_S = 1.0
"""What ``appendfsync everysec`` may lose."""
LOOK_S = 0.005
PROGRAMS = {Path(path).name: path for path, _ in candidates()}
ANSWERS = {
    "finished": "[[tokens=8 rate=0 seed=1]]",
    "live": "[[tokens=100000 rate=50 seed=2]]",
}


class FileSizes:
    """How large the append-only file was at each moment of the last seconds."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._seen: deque[tuple[float, int]] = deque(maxlen=round(10 / LOOK_S))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A block during which it is looked at."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(LOOK_S):
            self._seen.append((time.monotonic(), self._server.file.stat().st_size))

    def at(self, moment_s: float) -> int:
        """Its size then, in bytes, or at the first look from then on."""
        return next(size for seen_s, size in self._seen if seen_s >= moment_s)


def not_503(response: httpx.Response) -> httpx.Response | None:
    """The response, unless it says: later."""
    return response if response.status_code != 503 else None


@pytest.mark.guarantee("T23")
@pytest.mark.clause("STOP-7")
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_was_erased_never_comes_back(
    tmp_path: Path, cluster_of: Callable[..., Breakable], name: str, program: str
) -> None:
    server = RedisServer(tmp_path, program=PROGRAMS[program])
    cluster = cluster_of(nodes=2, workers=1, redis=server)
    node = cluster.nodes[0]
    for kind, words in ANSWERS.items():
        called = f"{name}-{kind}"
        sizes = FileSizes(server)
        node.post(called, ANSWERS["finished"])
        with sizes.watched(), node.posting(called, words) as post:
            post.first(1)
            if kind == "finished":
                post.whole()
            epoch = post.headers["x-stream-epoch"]
            node.erase(called)
            answered_s = time.monotonic()
            server.stop()
        cluster.kill("api-1")
        assert time.monotonic() - answered_s < 10
        server.lose(server.file.stat().st_size - sizes.at(answered_s - LOST_S))
        server.start()
        cluster.well()
        for one in cluster.nodes:
            # A node is 503 while those who remember may still tell a Redis that forgot.
            found = until(lambda one=one, called=called: not_503(one.read(called)))
            assert "evicted" in error_of(found)["reason"]
            assert one.read(called, epoch=epoch).status_code == 404
            assert one.lookup(called) == []


@pytest.mark.clause("STOP-7")
def test_what_is_kept_and_what_was_never_there_waits_for_no_disk(
    cluster: Breakable, name: str
) -> None:
    node = cluster.nodes[0]
    commands: list[str] = []
    node.post(name, ANSWERS["finished"])
    with cluster.db.monitor() as monitor:
        node.stop(name, keep="true")
        node.stop(f"{name}-unknown")
        cluster.db.ping()
        for told in monitor.listen():
            commands.append(told["command"])
            if told["command"] == "PING":
                break
    assert not [one for one in commands if one.startswith("INFO persistence")]
