"""From a command to Redis and back: connections, and errors as one line and an exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import IntEnum
from typing import Any, TypeVar

import typer

from replay.cli.output import complain
from replay.errors import (
    EpochMismatch,
    LogUnavailable,
    OffsetBeyondEnd,
    OffsetExpired,
    ReplayError,
    SessionExpired,
    SessionNotFound,
)
from replay.redis_plane import Client, connect
from replay.redis_url import shown


class ExitCode(IntEnum):
    """What the shell is told."""

    DONE = 0
    NOT_FOUND = 1
    USAGE = 2
    UNAVAILABLE = 3


EXIT_CODES: dict[type[ReplayError], ExitCode] = {
    SessionNotFound: ExitCode.NOT_FOUND,
    SessionExpired: ExitCode.NOT_FOUND,
    EpochMismatch: ExitCode.NOT_FOUND,
    OffsetExpired: ExitCode.USAGE,
    OffsetBeyondEnd: ExitCode.USAGE,
}


AnyClient = TypeVar("AnyClient", bound=Client)


@asynccontextmanager
async def opened(redis: AnyClient) -> AsyncIterator[AnyClient]:
    """A client, for the block."""
    try:
        yield redis
    finally:
        await redis.aclose()


def plane(url: str) -> AbstractAsyncContextManager[Client]:
    """A client of the log plane, for the block."""
    return opened(connect(url))


def run(work: Coroutine[Any, Any, None], *, redis_url: str) -> None:
    """Runs a command. Raises typer.Exit, and says why on stderr, where it could not finish."""
    try:
        asyncio.run(work)
    except BrokenPipeError:  # `| head` has seen enough; Python must not fail again as it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.DONE) from None
    except LogUnavailable as error:
        complain(f"Redis at {shown(redis_url)} is unavailable: {error.operation}")
        raise typer.Exit(ExitCode.UNAVAILABLE) from None
    except tuple(EXIT_CODES) as error:
        complain(str(error))
        raise typer.Exit(EXIT_CODES[type(error)]) from None
