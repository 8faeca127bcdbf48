"""What goes over a connection of ours is what redis-py would have sent."""

from __future__ import annotations

import pytest
from redis.asyncio import Connection
from redis.exceptions import DataError

from replay.records import State
from replay.redis_connections import Tcp

COMMANDS = (
    ("PING",),
    ("CONFIG GET", "maxmemory"),
    ("EVALSHA", "a" * 40, 1, "rc:{t:c}:c::m:1:record", b"\x00\r\n\xff", 2**53, -1, 0.25, ""),
    ("SET", "Grüße 🚲", State.COMPLETED, b"x" * 100_000),
)


@pytest.mark.parametrize("command", COMMANDS, ids=[str(command[0]) for command in COMMANDS])
def test_commands_are_packed_as_redis_py_packs_them(command: tuple[str | bytes, ...]) -> None:
    assert b"".join(Tcp().pack_command(*command)) == b"".join(Connection().pack_command(*command))


@pytest.mark.parametrize("value", [None, True, ["x"]])
def test_what_redis_has_no_word_for_is_refused(value: object) -> None:
    with pytest.raises(DataError):
        Tcp().pack_command("SET", "key", value)
