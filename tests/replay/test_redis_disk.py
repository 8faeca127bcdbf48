"""A plane that waits for the disk, and a server whose disk a test decides on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from replay import redis_disk
from replay.errors import LogUnavailable
from replay.redis_plane import Plane, connect
from replay.redis_scripts import Call, script

pytestmark = pytest.mark.anyio
TOUCH = Call(script("touch"), ("key",), ())


class Disk:
    """A server that knows its configuration (or does not tell) and what is still to be synced."""

    def __init__(self, *pending: int, policy: str | None = "everysec") -> None:
        self.pending = list(pending)
        self.policy = policy
        self.looks = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Any]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        client = connect(f"redis://{host}:{port}")
        try:
            yield client
        finally:
            await client.aclose()
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # a client that gives up resets
            while head := await reader.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:size])
                writer.write(self._reply(words[0].upper()))
        writer.close()

    def _reply(self, command: bytes) -> bytes:
        if command == b"CONFIG":
            told = {"appendonly": "yes", "appendfsync": self.policy}
            flat = [f"${len(w)}\r\n{w}\r\n" for pair in told.items() for w in pair if w]
            return f"*4\r\n{''.join(flat)}".encode() if self.policy else b"-ERR forbidden\r\n"
        if command != b"INFO":
            return b":1\r\n"
        self.looks += 1
        pending = self.pending.pop(0) if len(self.pending) > 1 else self.pending[0]
        text = f"aof_enabled:1\r\naof_pending_bio_fsync:{pending}\r\naof_buffer_length:0\r\n"
        return f"${len(text)}\r\n{text}\r\n".encode()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_disk, "EVERYSEC_S", 0.05)
    monkeypatch.setattr(redis_disk, "CRON_TICK_S", 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("pending", "looks"), [((0,), 2), ((1, 1, 0), 4), ((0, 1, 0), 4), ((1, 0, 1, 0), 5)]
)
async def test_the_disk_has_it_once_two_looks_in_a_row_find_no_sync_under_way(
    pending: tuple[int, ...], looks: int
) -> None:
    disk = Disk(*pending)
    async with disk.serving() as client:
        asked_s = time.monotonic()
        await Plane(client).call_durably([TOUCH])
    assert (disk.looks, time.monotonic() - asked_s >= 0.05) == (looks, True)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("policy", "looks"), [("always", 0), ("no", 0), (None, 3)])
async def test_what_is_not_synced_later_is_not_waited_for(policy: str | None, looks: int) -> None:
    disk = Disk(0, policy=policy)
    async with disk.serving() as client:
        await Plane(client).call_durably([TOUCH])
    assert disk.looks == looks


@pytest.mark.usefixtures("impatient")
async def test_a_slow_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_disk, "SLOW_SYNC_S", 0.1)
    async with Disk(1).serving() as client:
        with pytest.raises(LogUnavailable, match="settle"):
            await Plane(client).call_durably([TOUCH])
