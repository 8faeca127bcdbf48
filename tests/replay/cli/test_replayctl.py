"""The tree of commands: each has help and an example, and a Redis that is away is one line."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command

from replay.cli.replayctl import build

from .command_line import NOWHERE, replayctl

COMMANDS = [
    ("sessions", "ls"),
    ("sessions", "show"),
    ("sessions", "tail"),
    ("sessions", "stop"),
    ("workers", "ls"),
    ("nodes", "ls"),
]
NEEDS_ID = {"show", "tail", "stop"}
LIMIT_S = 60


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_an_example(command: tuple[str, str]) -> None:
    result = replayctl(NOWHERE, *command, "--help")
    assert result.exit_code == 0
    assert f"Example: replayctl {' '.join(command)}" in result.stdout
    assert "REPLAY_REDIS_URL" in result.stdout
    undescribed = [option for option in options_of(command) if not option.help]
    assert undescribed == []


def options_of(command: tuple[str, str]) -> list[Any]:
    """The command's own arguments and options."""
    noun, verb = command
    tree: Any = get_command(build())
    return list(tree.commands[noun].commands[verb].params)


@pytest.mark.parametrize("noun", [[], ["sessions"], ["workers"], ["nodes"]])
def test_a_noun_alone_shows_its_verbs(noun: list[str]) -> None:
    result = replayctl(NOWHERE, *noun)
    assert "Commands:" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_redis_that_is_away_is_one_line_and_code_3(command: tuple[str, str]) -> None:
    words = (*command, "c") if command[1] in NEEDS_ID else command
    result = replayctl(NOWHERE, *words)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("replayctl: Redis at redis://127.0.0.1:1 is unavailable: ")
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["sessions", "fly"],
        ["sessions", "show"],
        ["sessions", "ls", "--state", "dead"],
        ["sessions", "show", ""],
        ["sessions", "show", "c", "--epoch", "0"],
        ["sessions", "tail", "c", "--from", "-1"],
    ],
)
def test_wrong_usage_is_code_2(words: list[str]) -> None:
    result = replayctl(NOWHERE, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_it_runs_as_a_module_and_prints_what_a_narrow_encoding_cannot(redis_url: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "replay.cli", "sessions", "show", "🧪"],
        env={"REPLAY_REDIS_URL": redis_url, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "replayctl: no session '\\U0001f9ea'\n"
