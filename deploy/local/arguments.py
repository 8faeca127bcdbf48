"""The command line of the launcher, as one frozen record."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.bootstrap import MODEL, models_dir

CHILDREN_MAX = 64  # nodes or workers on one machine; more is a slip of the keyboard


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person asked for.

    `port` is the front's and 0 asks for free ports; `redis_url` is None for an embedded Redis;
    `models` are `name=/absolute/path.gguf`.
    """

    host: str
    port: int
    api_nodes: int
    workers: int
    redis_url: str | None
    state_dir: Path
    models: tuple[str, ...]
    engine: str
    restart: bool


def count(text: str) -> int:
    """A number of children, 0 to CHILDREN_MAX."""
    number = int(text)
    if not 0 <= number <= CHILDREN_MAX:
        raise ValueError(text)
    return number


def named_model(text: str) -> str:
    """`name=/absolute/path`, from that or from a path alone, which is named by its file's stem."""
    name, equals, path = text.partition("=")
    file = Path(path if equals else text).expanduser().absolute()
    return f"{name if equals else file.stem}={file}"


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser, its defaults taken from the environment where a setting is there."""
    made = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description="Runs a whole cluster on this machine: Redis, workers and API nodes. "
        "It restarts what dies; Ctrl-C stops everything within 5 s.",
        epilog="Every other setting goes to the nodes and workers by environment: "
        "see the table in deploy/RUNBOOK.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on")
    add(
        "--port",
        type=int,
        default=8080,
        help="the front, shared by all nodes; node i also listens on port+i; 0: free ones",
    )
    add("--api-nodes", type=count, default=2, metavar="N", help="how many API nodes")
    add("--workers", type=count, default=1, metavar="N", help="how many inference workers")
    add(
        "--redis-url",
        default=environment.get("REPLAY_REDIS_URL") or None,
        metavar="URL",
        help="a Redis 7.0 or newer; none: one is started here (REPLAY_REDIS_URL)",
    )
    add(
        "--state-dir",
        type=Path,
        default=Path(".state"),
        metavar="DIR",
        help="the embedded Redis's files, the logs, and cluster.json",
    )
    add(
        "--model",
        action="append",
        metavar="[NAME=]PATH",
        help=f"a GGUF to serve, may be repeated; none: {MODEL} (REPLAY_MODELS)",
    )
    add(
        "--engine",
        choices=("llama", "scripted"),
        default=environment.get("REPLAY_ENGINE") or "llama",
        help="what generates: a model, or a script for tests (REPLAY_ENGINE)",
    )
    add("--no-restart", action="store_true", help="let what dies stay dead (for tests)")
    return made


def chosen_models(asked: Sequence[str] | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The models to serve: those asked for, else REPLAY_MODELS, else the default one."""
    from_environment = [entry for entry in environment.get("REPLAY_MODELS", "").split(",") if entry]
    default = [str(models_dir() / f"{MODEL}.gguf")]
    return tuple(named_model(text) for text in asked or from_environment or default)


def parse(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    """The options of one command line; a mistake in it ends the process as argparse does."""
    asked = parser(environment).parse_args(argv)
    return Options(
        host=asked.host,
        port=asked.port,
        api_nodes=asked.api_nodes,
        workers=asked.workers,
        redis_url=asked.redis_url,
        state_dir=asked.state_dir.absolute(),
        models=chosen_models(asked.model, environment),
        engine=asked.engine,
        restart=not asked.no_restart,
    )
