"""A log followed to its end, in each form."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest
from log_harness import append, claimed, close, opened
from redis.asyncio import Redis

from replay import keys
from replay.cli.tailing import chunk_json, chunk_line, end_line
from replay.identity import Conversation
from replay.records import Chunk, End, State
from replay.redis_log import RedisLog

from .command_line import SECRET, answered, chat_frames, on, queued, replayctl

LIMIT_S = 60.0


def test_events_are_printed_without_their_text(redis_url: str) -> None:
    body = answered(redis_url)
    result = replayctl(redis_url, "sessions", "tail", "c")
    chunk, done, end = result.stdout.splitlines()
    first = len(body) - len(b"data: [DONE]\n\n")
    assert chunk.split() == ["0", "chunk", str(first), "bytes", "2", "events"]
    assert done.split() == [str(first), "chunk", "14", "bytes", "1", "event"]
    assert end.split() == [str(len(body)), "end", "completed(stop),", "0", "tokens"]
    assert SECRET not in result.output


def test_the_text_is_printed_when_asked_for_and_the_end_beside_it(redis_url: str) -> None:
    answered(redis_url)
    result = replayctl(redis_url, "sessions", "tail", "c", "--text")
    assert result.stdout == f"Hello {SECRET}\n"
    assert "completed(stop)" in result.stderr


def test_raw_is_the_log_byte_for_byte_from_any_offset(redis_url: str) -> None:
    body = answered(redis_url)
    for offset in (0, 1, 17, len(body)):
        words = ("sessions", "tail", "c", "--raw", "--from", str(offset))
        result = replayctl(redis_url, *words)
        assert (result.exit_code, result.stdout_bytes) == (0, body[offset:])


def test_json_is_one_object_a_line_and_has_text_only_when_asked(redis_url: str) -> None:
    body = answered(redis_url)
    result = replayctl(redis_url, "sessions", "tail", "c", "--json")
    assert SECRET not in result.stdout
    first, second, end = map(json.loads, result.stdout.splitlines())
    assert (first["kind"], first["start"], first["events"]) == ("chunk", 0, 2)
    assert second["end"] == end["size"] == len(body)
    assert (end["kind"], end["state"], end["reason"]) == ("end", "completed", "stop")
    with_text = replayctl(redis_url, "sessions", "tail", "c", "--json", "--text").stdout
    pieces = [json.loads(line).get("text", "") for line in with_text.splitlines()]
    assert "".join(pieces) == f"Hello {SECRET}"


def test_a_trimmed_log_is_tailed_from_its_first_retained_byte(redis_url: str) -> None:
    async def fill(log: RedisLog) -> int:
        conversation = Conversation("default", "c")
        ref = (await opened(log, "c", conversation=conversation)).ref
        claim = await claimed(log, ref)
        for start in range(0, 50, 10):
            await append(log, claim, start, b": 345678\n\n", window_bytes=20)
        await close(log, claim, 50)
        return 0

    on(redis_url, fill)
    result = replayctl(redis_url, "sessions", "tail", "c")
    assert result.exit_code == 0
    assert int(result.stdout.split()[0]) > 0
    below = replayctl(redis_url, "sessions", "tail", "c", "--from", "0")
    assert (below.exit_code, below.stderr.count("\n")) == (2, 1)
    assert "no longer retained" in below.stderr


def test_an_offset_beyond_the_end_is_wrong_usage(redis_url: str) -> None:
    answered(redis_url)
    result = replayctl(redis_url, "sessions", "tail", "c", "--from", "9999")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("other", ["--text", "--json"])
def test_raw_goes_with_no_other_form(redis_url: str, other: str) -> None:
    result = replayctl(redis_url, "sessions", "tail", "c", "--raw", other)
    assert result.exit_code == 2


@pytest.mark.anyio
async def test_live_chunks_are_printed_as_they_come(redis: Redis, redis_url: str) -> None:
    log = RedisLog(redis)
    ref = (await opened(log, "c", conversation=Conversation("default", "c"))).ref
    claim = await claimed(log, ref)
    first, second = chat_frames("one", "two")
    await append(log, claim, 0, first)
    command = ("-m", "replay.cli", "sessions", "tail", "c", "--text", "--redis-url", redis_url)
    reader = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert reader.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        assert await reader.stdout.readexactly(3) == b"one"
        await append(log, claim, len(first), second)
        assert await reader.stdout.readexactly(3) == b"two"
        await close(log, claim, len(first) + len(second))
        assert await reader.stdout.read() == b"\n"
        assert await reader.wait() == 0


@pytest.mark.anyio
async def test_looking_at_a_waiting_session_writes_nothing_into_its_log(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(queued, redis_url)
    log = RedisLog(redis)
    record = await log.resolve("default", "c", None)
    await redis.hset(keys.record(record.ref), "last_ms", 1)  # a keep-alive is long overdue
    monkeypatch.setattr("replay.topic.SILENCE_S", 0.1)
    pulsed = asyncio.Event()
    pulses = RedisLog.pulses

    async def seen(self: RedisLog, *args: object, **more: object) -> object:
        told = await pulses(self, *args, **more)  # type: ignore[arg-type]
        loop.call_soon_threadsafe(pulsed.set)
        return told

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(RedisLog, "pulses", seen)
    tail = asyncio.create_task(
        asyncio.to_thread(replayctl, redis_url, "sessions", "tail", "c", "--json")
    )
    async with asyncio.timeout(LIMIT_S):
        await pulsed.wait()
        assert await redis.exists(keys.stream(record.ref)) == 0
        await log.stop("default", "c", epoch=None, keep=True, reason="client")
        lines = (await tail).stdout.splitlines()
    assert json.loads(lines[0])["comments"] == ['end {"state":"stopped","reason":"client"}']


def test_a_line_tells_place_size_and_kinds() -> None:
    frames = [b": queued 3", b"data: 1", b"data: 2"]
    chunk = Chunk(1100, b"x" * 100)
    assert chunk_line(chunk, frames) == (
        "     1,000  chunk      100 bytes  2 events, comment 'queued 3'"
    )
    assert chunk_line(chunk, []) == "     1,000  chunk      100 bytes"
    assert chunk_json(chunk, frames) == {
        "kind": "chunk",
        "start": 1000,
        "end": 1100,
        "bytes": 100,
        "events": 2,
        "comments": ["queued 3"],
    }
    assert (
        end_line(End(State.LOST, "orphan", 5), 1234)
        == "         5  end    lost(orphan), 1,234 tokens"
    )
