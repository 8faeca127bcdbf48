"""How children are started: the contract with nodes and workers."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.arguments import parse
from deploy.local.commands import cluster_commands, engine_threads, front_url

OPTIONS = parse(["--port", "9000", "--state-dir", "/state", "--model", "m=/m.gguf"], {})


def test_command_lines_name_their_package_and_workers_come_first() -> None:
    commands = cluster_commands(OPTIONS, "redis://r")
    assert [command.name for command in commands] == ["worker-1", "api-1", "api-2"]
    assert [command.argv for command in commands] == [
        (sys.executable, "-m", "inference_worker"),
        (sys.executable, "-m", "api"),
        (sys.executable, "-m", "api"),
    ]


def test_a_node_has_a_port_of_its_own_beside_the_front() -> None:
    node = cluster_commands(OPTIONS, "redis://r")[2]
    assert node.environment == {
        "REPLAY_REDIS_URL": "redis://r",
        "REPLAY_NODE": "api-2",
        "REPLAY_HOST": "127.0.0.1",
        "REPLAY_PORT": "9002",
        "REPLAY_FRONT_PORT": "9000",
    }
    assert node.url == "http://127.0.0.1:9002"
    assert node.log == Path("/state/log/api-2.log")


def test_a_worker_is_told_its_models_and_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLAY_THREADS", "3")
    worker = cluster_commands(replace(OPTIONS, engine="scripted"), "redis://r")[0]
    assert worker.environment == {
        "REPLAY_REDIS_URL": "redis://r",
        "REPLAY_WORKER": "worker-1",
        "REPLAY_MODELS": "m=/m.gguf",
        "REPLAY_ENGINE": "scripted",
        "REPLAY_THREADS": "3",
    }
    assert worker.url is None


def test_an_address_that_means_all_is_reached_on_loopback() -> None:
    assert front_url(replace(OPTIONS, host="0.0.0.0")) == "http://127.0.0.1:9000"
    assert front_url(replace(OPTIONS, host="::1")) == "http://[::1]:9000"


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (2, 4, 1)]
)
def test_one_core_is_left_to_the_others(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert engine_threads(replace(OPTIONS, workers=workers)) == threads
