"""Two hundred of the requests that `python -m tests.fuzz` sends, on the real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local.cluster import Cluster

from .requests import TOKENS_MAX, request_of
from .run import real_cluster, run

SEED = 20
REQUESTS = 200
CHAT = "/v1/chat/completions"
PLAIN = {
    "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    "temperature": 0,
    "max_tokens": TOKENS_MAX,
    "cache_prompt": False,
}


def test_a_request_follows_from_its_seed_and_number() -> None:
    made = [request_of(1, number) for number in range(100)]
    assert made == [request_of(1, number) for number in range(100)]
    assert len({json.dumps(one.body, sort_keys=True) for one in made}) > 90


def test_no_request_asks_for_more_than_a_few_tokens() -> None:
    for number in range(500):
        body = request_of(2, number).body
        limits = [body[name] for name in ("max_tokens", "max_output_tokens") if name in body]
        assert all(limit <= TOKENS_MAX for limit in limits)
        assert limits or "input" in body or "content" in body


@pytest.fixture(scope="module")
def cluster(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The real one."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    with real_cluster(folder) as made:
        yield made


def answer(cluster: Cluster) -> str:
    """The same greedy answer each time."""
    response = httpx.post(cluster.front + CHAT, json=PLAIN, timeout=60)
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


@pytest.mark.system
@pytest.mark.timeout(600)
def test_requests_at_random_break_nothing(cluster: Cluster) -> None:
    before, pids = answer(cluster), cluster.pids
    findings = asyncio.run(run(cluster.nodes, SEED, range(REQUESTS)))
    assert findings.broken == [], f"python -m tests.fuzz --seed {SEED} --only ..."
    assert findings.statuses[200] > REQUESTS / 3
    assert (cluster.pids, answer(cluster)) == (pids, before)
