"""`<state-dir>/cluster.json`: what runs where, kept up to date for tests and tools; and the lock.

{"ready", "launcher": pid, "front": url, "nodes": [{"name", "url", "pid"}],
 "workers": [{"name", "pid"}], "redis": {"url", "pid"}}; a pid is null while nothing runs there, and
Redis's where it is not ours. `ready` turns false when a child dies, true when all are well again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy.local.child import Child
from deploy.local.commands import REDIS_TIER, SERVER_TIER
from deploy.local.errors import LaunchFailed
from deploy.local.redis_server import LOOPBACK

LOCK_WAIT_S = 3.0  # for the children of a killed launcher to end
LOCK_LOOK_S = 0.05


def state_file(state_dir: Path) -> Path:
    """Where the state of a cluster is written."""
    return state_dir / "cluster.json"


def read_state(state_dir: Path) -> dict[str, Any]:
    """The last state written; empty when there is none that can be read."""
    try:
        state: dict[str, Any] = json.loads(state_file(state_dir).read_text())
    except (OSError, ValueError):
        return {}
    return state


def write_state(state_dir: Path, state: dict[str, Any]) -> None:
    """Writes the state so that a reader sees the old one or the new one, whole."""
    part = state_file(state_dir).with_suffix(".part")
    part.write_text(json.dumps(state, indent=1) + "\n")
    part.replace(state_file(state_dir))


def describe(children: list[Child], *, front: str, redis_url: str, ready: bool) -> dict[str, Any]:
    """The state of a cluster as `cluster.json` has it."""
    servers = [child for child in children if child.command.tier == SERVER_TIER]
    redis_pids = [child.pid for child in children if child.command.tier == REDIS_TIER]
    return {
        "ready": ready,
        "launcher": os.getpid(),
        "front": front,
        "nodes": [
            {"name": child.command.name, "url": child.command.url, "pid": child.pid}
            for child in servers
            if child.command.url
        ],
        "workers": [
            {"name": child.command.name, "pid": child.pid}
            for child in servers
            if not child.command.url
        ],
        "redis": {"url": redis_url, "pid": redis_pids[0] if redis_pids else None},
    }


def redis_port_before(state_dir: Path) -> int:
    """The port of the Redis on this machine that was used last time; 0 when there was none."""
    url = urlsplit(read_state(state_dir).get("redis", {}).get("url", ""))
    return url.port or 0 if url.hostname == LOOPBACK else 0


@contextmanager
def locked_state(state_dir: Path) -> Iterator[int]:
    """Makes the folder ours for a block; yields the descriptor that holds the lock.

    Children inherit it, so that the folder stays locked as long as any process of a cluster lives:
    two servers writing one append-only file would destroy it. LaunchFailed when it is another's.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LaunchFailed(f"the state folder cannot be used: {error}") from None
    try:
        _wait_for_lock(lock, state_dir)
        yield lock
    finally:
        os.close(lock)


def _wait_for_lock(lock: int, state_dir: Path) -> None:
    until_s = time.monotonic() + LOCK_WAIT_S
    while not _try_lock(lock):
        if time.monotonic() > until_s:
            owner = read_state(state_dir).get("launcher", "unknown")
            raise LaunchFailed(
                f"another cluster (launcher pid {owner}) uses {state_dir}: "
                "stop it, or choose another --state-dir"
            )
        time.sleep(LOCK_LOOK_S)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
