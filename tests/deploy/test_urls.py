"""A Redis URL that cannot be used is one line, whatever program is started with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "node": ("-m", "api"),
    "worker": ("-m", "inference_worker"),
    "launcher": ("-m", "deploy.local", "--engine", "scripted", "--port", "0"),
    "replayctl": ("-m", "replay.cli", "workers", "ls"),
}
LOGS, QUEUES = "REPLAY_REDIS_URL", "REPLAY_QUEUE_REDIS_URL"
CLUSTER = "redis+cluster://:secret@127.0.0.1:1,127.0.0.1:2"
LIMIT_S = 30.0


def said(folder: Path, program: str, **urls: str) -> str:
    """The last line of a program that does not start."""
    arguments = [*PROGRAMS[program]]
    if program == "launcher":
        arguments += ["--state-dir", str(folder)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("REPLAY_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**clean, "REPLAY_ENGINE": "scripted", "REPLAY_PORT": "0", **urls},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode != 0
    assert "secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_no_url_is_one_line(tmp_path: Path, program: str) -> None:
    told = said(tmp_path, program, **{LOGS: "redis+ring://:secret@h"})
    assert "no Redis URL" in told.replace("│\n│ ", "")


@pytest.mark.parametrize("program", ["node", "worker", "launcher"])
def test_the_queues_on_a_cluster_are_one_line(tmp_path: Path, program: str) -> None:
    told = said(tmp_path, program, **{LOGS: CLUSTER})
    assert len(told.splitlines()) == 1
    assert f"{QUEUES}: the queues need a Redis of their own" in told
