"""The one place that knows how each child is started: command line, environment, log.

Pure: it reads no environment and starts nothing. A test puts other commands in their place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.arguments import Options

REDIS_TIER, SERVER_TIER = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to start one child.

    `environment` is added to the launcher's own. Tiers start in rising order and stop in falling
    order, so that Redis is there as long as anything may still write to it.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    tier: int = SERVER_TIER
    environment: dict[str, str] = field(default_factory=dict)
    url: str | None = None


Commands = Callable[[Options, str], list[Command]]
"""From the options (with real ports) and the URL of Redis to the nodes and workers."""


def url_host(host: str) -> str:
    """The host as a client on this machine writes it in a URL."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def front_url(options: Options) -> str:
    """Where the nodes are reached together."""
    return f"http://{url_host(options.host)}:{options.port}"


def log_file(options: Options, name: str) -> Path:
    """Where a child's output goes."""
    return options.state_dir / "log" / f"{name}.log"


def node_names(options: Options) -> list[str]:
    """The names of the nodes; node i (from 1) listens on port + i."""
    return [f"api-{i + 1}" for i in range(options.api_nodes)]


def node_command(options: Options, number: int, redis_url: str) -> Command:
    """API node `number`, counted from 1."""
    name, port = f"api-{number}", options.port + number
    return Command(
        name=name,
        argv=(sys.executable, "-m", "api"),
        log=log_file(options, name),
        url=f"http://{url_host(options.host)}:{port}",
        environment={
            "REPLAY_REDIS_URL": redis_url,
            "REPLAY_NODE": name,
            "REPLAY_HOST": options.host,
            "REPLAY_PORT": str(port),
            "REPLAY_FRONT_PORT": str(options.port),
        },
    )


def engine_threads(options: Options) -> int:
    """Threads of one worker's engine: the cores less one, shared out.

    One core is left to Redis, nodes and page: llama.cpp's threads wait for each other by spinning,
    so one that has to share its core slows all.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, ((cores or 1) - 1) // max(1, options.workers))


def worker_command(options: Options, number: int, redis_url: str) -> Command:
    """Inference worker `number`, counted from 1."""
    name = f"worker-{number}"
    return Command(
        name=name,
        argv=(sys.executable, "-m", "inference_worker"),
        log=log_file(options, name),
        environment={
            "REPLAY_REDIS_URL": redis_url,
            "REPLAY_WORKER": name,
            "REPLAY_MODELS": ",".join(options.models),
            "REPLAY_ENGINE": options.engine,
            "REPLAY_THREADS": os.environ.get("REPLAY_THREADS") or str(engine_threads(options)),
        },
    )


def cluster_commands(options: Options, redis_url: str) -> list[Command]:
    """All nodes and workers; the workers first, since loading a model takes longest."""
    workers = [worker_command(options, i + 1, redis_url) for i in range(options.workers)]
    nodes = [node_command(options, i + 1, redis_url) for i in range(options.api_nodes)]
    return workers + nodes
