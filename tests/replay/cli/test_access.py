"""Errors as one line and an exit code."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
import typer

from replay.cli import access
from replay.cli.access import EXIT_CODES, ExitCode
from replay.errors import (
    EpochMismatch,
    LogUnavailable,
    OffsetBeyondEnd,
    OffsetExpired,
    ReplayError,
    SessionExpired,
    SessionNotFound,
)

from .command_line import NOWHERE, answered

LIMIT_S = 60


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SessionNotFound("c", "expired"), ExitCode.NOT_FOUND),
        (SessionExpired("c", 3), ExitCode.NOT_FOUND),
        (EpochMismatch(3, 4), ExitCode.NOT_FOUND),
        (OffsetExpired(1, 2), ExitCode.USAGE),
        (OffsetBeyondEnd(2, 1), ExitCode.USAGE),
        (LogUnavailable("read: gone"), ExitCode.UNAVAILABLE),
    ],
)
def test_every_error_is_one_line_and_a_code(
    error: ReplayError, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        access.run(fail(), redis_url=NOWHERE)
    told = capsys.readouterr()
    assert ended.value.exit_code == code
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert told.err.startswith("replayctl: ")


def test_subclasses_of_errors_have_no_code_by_chance() -> None:
    assert all(not kind.__subclasses__() for kind in EXIT_CODES)


def test_a_closed_pipe_is_no_error(redis_url: str) -> None:
    answered(redis_url)
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "replay.cli",
        "sessions",
        "tail",
        "c",
        "--redis-url",
        redis_url,
    ]
    with os.fdopen(writing, "wb") as closed:
        ended = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_plane_is_closed_when_its_block_ends(redis_url: str) -> None:
    async def visit() -> Any:
        async with access.plane(redis_url) as redis:
            await redis.ping()
        return redis.connection_pool

    pool = asyncio.run(visit())
    assert not any(connection.is_connected for connection in pool._available_connections)
