"""The scripts: found, whole, named by their digest, and within the rules that they state."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import pytest
from redis.asyncio import Redis

from replay.redis_scripts import Call, script

SHARED = {"common", "producer"}
FILES = sorted(
    path.name.removesuffix(".lua")
    for path in resources.files("replay").joinpath("scripts").iterdir()
)
NAMES = [name for name in FILES if name not in SHARED]
READS = {"ask"}
"""Answered also by a Redis that refuses writes, which the sweeper's looks must not be: there no
lease could be renewed."""

REFUSED_WHEN_MEMORY_IS_FULL = {"append", "open"}
"""What takes memory for long. Everything else is small, and the cluster stands still without it."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.anyio
async def test_redis_takes_the_script_and_names_it_as_we_do(redis: Redis, name: str) -> None:
    one = script(name)
    assert await redis.script_load(one.text) == one.sha
    assert one.sha == hashlib.sha1(one.text.encode()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_says_what_a_full_redis_does_with_the_script(name: str) -> None:
    flags = " flags=no-writes" if name in READS else " flags=allow-oom"
    expected = "" if name in REFUSED_WHEN_MEMORY_IS_FULL else flags
    assert script(name).text.split("\n", 1)[0] == "#!lua" + expected


@pytest.mark.parametrize("name", FILES)
def test_no_script_joins_a_number_to_text_as_lua_would_write_it(name: str) -> None:
    """Above 1e14 Lua's own formatting rounds, and epochs and times are above that soon."""
    text = resources.files("replay").joinpath("scripts", f"{name}.lua").read_text("utf-8")
    code = re.sub(r"--[^\n]*", "", text)
    assert "tostring(" not in code
    assert not re.search(r"\.\.\s*\(?(at|size|now|end|epoch\s*\+|number\()", code)


def test_producers_scripts_share_their_check() -> None:
    for name in NAMES:
        assert ("local function refusal" in script(name).text) == (name in ("append", "close"))


def test_a_script_is_read_once() -> None:
    assert script("append") is script("append")


def test_a_call_is_one_command() -> None:
    one = script("look")
    call = Call(one, ("k1", "k2"), ("a", b"\x00", 3))
    assert call.command() == ("EVALSHA", one.sha, 2, "k1", "k2", "a", b"\x00", 3)


def test_an_unknown_script_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        script("never")
