"""Clusters of real processes: one with the real model, one whose answers are scripted."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from cluster_client import Client, client_of

from deploy.local.cluster import Cluster
from inference_worker.scripted_engine import open_scripted_engine, scripted_answer
from replay.request import SamplingParams
from tests.redis_server import leave_to_the_kernel

OURS = {"REPLAY_API_KEYS": "", "REPLAY_REDIS_URL": "", "REPLAY_MODELS": ""}
"""What the person who runs the tests may have set for a cluster of their own."""

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts processes."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.system)


def made(state_dir: Path, *arguments: str, **environment: str) -> Cluster:
    """A cluster of two nodes and a worker, not yet started."""
    return Cluster(state_dir, *arguments, environment={**OURS, **environment})


def scripted_cluster(state_dir: Path, **environment: str) -> Cluster:
    """The same with scripted answers."""
    return made(state_dir, "--engine", "scripted", **environment)


@pytest.fixture(scope="session")
def real_cluster(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes and a worker with the real model."""
    folder = tmp_path_factory.mktemp("real")
    arguments = ("--engine", "llama", "--model", str(model_file))
    # llama.cpp's threads wait for each other by spinning: with one a core, whatever else runs here
    # (these tests do) makes an answer many times slower.
    with made(folder, *arguments, REPLAY_THREADS="1") as cluster:
        leave_to_the_kernel(cluster.redis_url)
        yield cluster


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes and a worker whose answers are scripted."""
    with scripted_cluster(tmp_path_factory.mktemp("scripted")) as cluster:
        leave_to_the_kernel(cluster.redis_url)
        yield cluster


@pytest.fixture
async def real(real_cluster: Cluster) -> AsyncIterator[Client]:
    """A client of the cluster with the real model, all of it well after what was killed."""
    real_cluster.wait_ready()
    async with client_of(real_cluster) as client:
        yield client


@pytest.fixture
async def scripted(shared_cluster: Cluster) -> AsyncIterator[Client]:
    """The same of the scripted cluster."""
    shared_cluster.wait_ready()
    async with client_of(shared_cluster) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A conversation that no other test uses."""
    return f"c-{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def answer_to() -> Callable[[str], str]:
    """The whole scripted answer to some words, which must name their seed."""
    engine = open_scripted_engine()

    def answer(words: str) -> str:
        prompt = engine.prompt_tokens([{"role": "user", "content": words}])
        return scripted_answer(prompt, SamplingParams(seed=0))

    return answer
