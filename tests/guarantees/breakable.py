"""A cluster of real processes whose every part can be killed, held and restarted.

The answers are scripted, so that what a reader must get is known beforehand.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from deploy.local.cluster import Cluster
from deploy.local.probes import workers_are_ready
from inference_worker.batch_loop import BatchEngine
from inference_worker.scripted_engine import open_scripted_engine, scripted_answer, scripted_tokens
from replay import keys
from replay.cluster import WorkerRecord
from replay.identity import Conversation
from replay.request import SamplingParams
from tests.chaos.launcher import CHILDREN
from tests.protocol.wire import LOOK_S, Cut, Node, until
from tests.redis_planes import ClusterPlane, SentinelPlane
from tests.redis_server import RedisServer

LEASE_S = 2.0
FOLLOW_LIMIT_S = 60.0
OURS = dict.fromkeys(
    (
        "REPLAY_API_KEYS",
        "REPLAY_API_KEYS_FILE",
        "REPLAY_ENGINE",
        "REPLAY_MODELS",
        "REPLAY_QUEUE_REDIS_URL",
        "REPLAY_REDIS_URL",
    ),
    "",
)
"""What the person who runs the tests may have set for a cluster of their own."""

SETTINGS = {"REPLAY_SLOTS": "4", "REPLAY_LEASE_S": str(LEASE_S), "REPLAY_DRAIN_S": "1"}


class Breakable:
    """Nodes, workers and a Redis of their own; use it in the block of ``running``.

    ``settings`` are environment variables of nodes and workers, ``children`` those of single ones
    by name. ``redis`` is one that the test made, with the options that it wants.
    """

    model = "scripted"

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 2,
        workers: int = 2,
        redis: RedisServer | SentinelPlane | ClusterPlane | None = None,
        children: Mapping[str, Mapping[str, str]] | None = None,
        **settings: str,
    ) -> None:
        self.redis = redis or RedisServer(folder / "redis")
        self.nodes: list[Node] = []
        arguments = ["--engine", "scripted", "--redis-url", self.redis.url, "--model", self.model]
        arguments += ["--api-nodes", str(nodes), "--workers", str(workers)]
        self.cluster = Cluster(
            folder / "state",
            *arguments,
            environment={**OURS, **SETTINGS, **settings, CHILDREN: json.dumps(children or {})},
            launcher=(sys.executable, "-m", "tests.chaos.launcher"),
        )

    @contextmanager
    def running(self) -> Iterator[Breakable]:
        """A block in which it runs; afterwards nothing of it is left."""
        with ExitStack() as stack:
            stack.enter_context(self.redis.running())
            self.db: Any = self.redis.client()
            stack.callback(self.db.close)
            stack.enter_context(self.cluster)
            self.nodes = [Node(url) for url in self.cluster.nodes]
            for node in self.nodes:
                stack.callback(node.http.close)
            yield self.well()

    def well(self) -> Breakable:
        """The same, once every process is up and every node knows every worker."""
        self.cluster.wait_ready()
        until(lambda: workers_are_ready(self.redis.url, self.worker_pids))
        for node in self.nodes:
            until(lambda node=node: len(self.worker_pids) == _workers_known_to(node))
            until(node.is_sure)
        return self

    @property
    def worker_pids(self) -> dict[str, int | None]:
        """The workers' process ids by name."""
        return {name: pid for name, pid in self.cluster.pids.items() if name.startswith("worker")}

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signals ``api-1``, ``worker-2``...; the launcher starts again what dies. Its pid."""
        pid = self.cluster.kill(name, number)
        if number == signal.SIGKILL:
            until(lambda: self.cluster.pids[name] != pid)
        return pid

    @contextmanager
    def held(self, name: str) -> Iterator[int]:
        """A block in which a process stands still (SIGSTOP); its pid."""
        pid = self.cluster.kill(name, signal.SIGSTOP)
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGCONT)

    def begin(self, node: Node, name: str, words: str, **fields: object) -> None:
        """Asks and leaves as soon as bytes are there: the session has a name and goes on."""
        with node.posting(name, words, **fields) as post:
            post.first(1)

    def followed(self, node: Node, name: str) -> bytes:
        """The whole log, as a client reads it that goes on wherever it was cut."""
        data = b""
        last_s = time.monotonic() + FOLLOW_LIMIT_S
        while time.monotonic() < last_s:
            with node.reading(name, from_=len(data)) as reader:
                if reader.status == 200:
                    with suppress(Cut):
                        return data + reader.whole()
                    data += reader.data
            time.sleep(LOOK_S)  # as a client does
        raise AssertionError(f"no end within {FOLLOW_LIMIT_S} s: {data[-200:]!r}")

    def until_logged(self, name: str, words: str) -> None:
        """Returns when a node or worker has said this."""
        until(lambda: words in self.log_of(name))

    def slots_free(self, name: str) -> int:
        """How many slots a worker says are free; -1 where it says nothing."""
        text = self.db.get(keys.worker(name))
        return WorkerRecord.from_json(text).models[0].slots_free if text else -1

    def log_of(self, name: str) -> str:
        """What a node or worker has printed, over all its lives."""
        return (self.cluster.state_dir / "log" / f"{name}.log").read_text("utf-8", "replace")

    def live(self) -> list[str]:
        """The conversations that the watch index names."""
        shards = [self.db.zrange(keys.live_shard(one), 0, -1) for one in range(keys.LIVE_SHARDS)]
        return [Conversation.from_path(path.decode()).id for shard in shards for path in shard]

    def settle(self) -> None:
        """Stops whatever a test has left running."""
        for conversation in self.live():
            self.nodes[0].stop(conversation, keep="true")


def _workers_known_to(node: Node) -> int:
    known: int = node.http.get("/props").json().get("workers", -1)  # none while Redis is away
    return known


@cache
def _engine() -> BatchEngine:
    return open_scripted_engine()


def prompt_of(words: str) -> list[int]:
    """The tokens that a chat of this one message becomes."""
    return _engine().prompt_tokens([{"role": "user", "content": words}])


def bytes_of(words: str, tokens: int) -> bytes:
    """What the first tokens of an answer are, halves of code points too."""
    chosen = scripted_tokens(prompt_of(words), SamplingParams(seed=0))
    return b"".join(_engine().piece(token) for token in islice(chosen, tokens))


def answer_to(words: str, max_tokens: int = -1) -> str:
    """What an uninterrupted answer says to words that name their seed."""
    return scripted_answer(prompt_of(words), SamplingParams(seed=0), max_tokens)
