"""Who answers: the bare engine, llama-server, and a whole cluster of two nodes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Protocol

from deploy.bootstrap import model_file
from deploy.local.cluster import Cluster
from tests.benchmarks.companion import Companion
from tests.benchmarks.engine.answers import LINE_S, Answer, streamed

MODEL_FILE = Path(os.environ.get("REPLAY_BENCH_MODEL") or model_file())
CONTEXT_TOKENS = 2048
THREADS = 1
"""Two wait for each other at barriers where anything else runs: up to a hundredfold slower."""

FLASH_ATTENTION_OFF = "0"
"""What llama-server is told more, to compute without it."""

LATE_S = 0.5
"""How long running answers have before a late prompt comes over HTTP, at least."""

Asked = Sequence[tuple[Sequence[int], int]]
"""Prompts as token ids, each with the length of its answer."""


class Ask(Protocol):
    """One side."""

    def __call__(self, asked: Asked, *, late: int = 0, n_probs: int = 0) -> list[Answer]:
        """Asks them all at once, but for so many of the last ones, which come while the others
        answer. Each token is told with its ``n_probs`` likeliest rivals."""


@dataclass(frozen=True, slots=True)
class Bare:
    """The engine in a process of its own, without HTTP."""

    companion: Companion

    def ask(self, asked: Asked, *, late: int = 0, n_probs: int = 0) -> list[Answer]:
        """See ``Ask``."""
        told = self.companion.ask(
            "run", asked=[list(one) for one in asked], late=late, n_probs=n_probs
        )
        return [Answer(one["asked_s"], tuple(one["tokens"]), tuple(one["came_s"])) for one in told]


def over_http(urls: Sequence[str]) -> Ask:
    """A thread and a connection for each prompt."""

    def ask(asked: Asked, *, late: int = 0, n_probs: int = 0) -> list[Answer]:
        with ThreadPoolExecutor(len(asked)) as pool:
            running = []
            for place, ((prompt, max_tokens), url) in enumerate(zip(asked, cycle(urls))):
                if late and place == len(asked) - late:
                    time.sleep(LATE_S)
                running.append(pool.submit(streamed, url, prompt, max_tokens, n_probs))
            return [one.result() for one in running]

    return ask


@contextmanager
def bare(slots: int) -> Iterator[Bare]:
    """Our engine."""
    with Companion("engine.ours", *arguments(slots), answer_max_s=LINE_S) as companion:
        yield Bare(companion)


@contextmanager
def llama_server(slots: int, *more: str) -> Iterator[Ask]:
    """Theirs."""
    with Companion("llama_server", *arguments(slots), *more) as companion:
        yield over_http([companion.ask("url")])


@contextmanager
def cluster(slots: int) -> Iterator[Ask]:
    """Our engine behind a node, Redis and HTTP."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Cluster(
            Path(folder),
            "--api-nodes",
            "2",
            "--model",
            f"bench={MODEL_FILE}",
            environment={
                "REPLAY_SLOTS": str(slots),
                "REPLAY_THREADS": str(THREADS),
                "REPLAY_CONTEXT_TOKENS": str(CONTEXT_TOKENS),
            },
        ) as running,
    ):
        yield over_http(running.nodes)


def arguments(slots: int) -> tuple[str, str, str, str]:
    """What both engines' processes are told."""
    return str(MODEL_FILE), str(slots), str(CONTEXT_TOKENS), str(THREADS)
