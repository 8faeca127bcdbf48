"""What the cluster adds to the first token: over HTTP, less the bare engine, with the real model.

The same prompts go to both in turns, a worker behind a node and an engine in a process of its own,
with the same threads; each waits while the other computes. No prompt comes twice to one of them,
so that no cache can answer it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deploy.bootstrap import MODEL, models_dir
from deploy.local.cluster import Cluster
from tests.benchmarks.companion import Companion
from tests.benchmarks.http_socket import HttpSocket
from tests.benchmarks.report import Row, quantile

CONTENT = b'"content":"'
"""Stands in the first frame with text; the role's frame has null there."""

MAX_TOKENS = 2
TIME_MAX_S = 45.0
"""On a busy machine fewer prompts are asked, rather than for longer."""

WARM_PROMPTS = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many prompts both sides answer."""

    prompts: int = 50


TINY = Sizes(prompts=4)


def measure(sizes: Sizes) -> list[Row]:
    """The rows of this benchmark."""
    model = models_dir() / f"{MODEL}.gguf"
    bare_ms, cluster_ms, tokens = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Cluster(Path(folder), "--api-nodes", "1", "--model", f"{MODEL}={model}") as cluster,
        Companion("bare_engine", str(model)) as engine,
    ):
        http = HttpSocket(cluster.nodes[0])
        until_s = time.monotonic() + TIME_MAX_S
        for number in range(-WARM_PROMPTS, sizes.prompts):
            if time.monotonic() > until_s:
                break
            told = engine.ask("first_token", text=prompt(number), max_tokens=MAX_TOKENS)
            took_s = over_http(http, prompt(number))
            if number >= 0:
                bare_ms.append(told["took_s"] * 1000)
                cluster_ms.append(took_s * 1000)
                tokens.append(told["prompt_tokens"])
        http.close()
    added_ms = [ours - bare for ours, bare in zip(cluster_ms, bare_ms, strict=True)]
    note = f"prompt of {median(tokens):.0f} tokens"
    return [
        Row("first token over HTTP", cluster_ms, "ms", note=note),
        Row("first token of the bare engine", bare_ms, "ms", is_floor=True, note=note),
        Row("what the cluster adds, pair by pair", added_ms, "ms"),
        Row("difference of the medians", [median(cluster_ms) - median(bare_ms)], "ms"),
        Row("difference of the quickest tenths", [quickest(cluster_ms) - quickest(bare_ms)], "ms"),
    ]


def quickest(values: list[float]) -> float:
    """What a tenth of the values do not exceed: those that nobody else's work disturbed."""
    return quantile(values, 0.1)


def prompt(number: int) -> str:
    """Another one for each number, from its first word on."""
    return f"{number + 1000} apples fell"


def over_http(http: HttpSocket, text: str) -> float:
    """Seconds from the POST to the first text."""
    body = {
        "model": MODEL,
        "stream": True,
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "messages": [{"role": "user", "content": text}],
    }
    exchange = http.post("/v1/chat/completions", body, {"X-Conversation-Id": text.split()[0]})
    return exchange.until(CONTENT)
