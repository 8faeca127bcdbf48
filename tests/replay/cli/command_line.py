"""Runs ``replayctl`` as a shell would, and fills a Redis for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from log_harness import append, claimed, close, opened
from redis.asyncio import Redis
from typer.testing import CliRunner

from replay import frames
from replay.cli.replayctl import build
from replay.identity import Conversation
from replay.redis_log import RedisLog
from replay.redis_plane import connect

SECRET = "Wolpertinger"
"""Stands in every answer and every request here, and must not be printed unless asked for."""

NOWHERE = "redis://nobody:hunter2@127.0.0.1:1/0"


def replayctl(url: str, *words: str, answer: str | None = None) -> Any:
    """A command on that Redis, with ``answer`` typed: its ``exit_code``, ``stdout``, ``stderr``."""
    environment = {"REPLAY_REDIS_URL": url, "REPLAY_QUEUE_REDIS_URL": None, "NO_COLOR": "1"}
    return CliRunner().invoke(build(), list(words), input=answer, env=environment)


def read_json(url: str, *words: str) -> Any:
    """What a command that succeeds prints with ``--json``."""
    result = replayctl(url, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def on(url: str, work: Callable[[RedisLog], Awaitable[Any]]) -> Any:
    """Does something to the log of that Redis."""

    async def connected() -> Any:
        redis: Redis = connect(url)
        try:
            return await work(RedisLog(redis))
        finally:
            await redis.aclose()

    return asyncio.run(connected())


def chat_frames(*texts: str) -> Iterator[bytes]:
    """A content chunk for each text."""
    for text in texts:
        yield frames.data({"choices": [{"index": 0, "delta": {"content": text}}]})


def answered(url: str, name: str = "c", *, tenant: str = "default", live: bool = False) -> bytes:
    """A session with an answer that holds the secret; its bytes. ``live``: it has not ended."""
    body = b"".join(chat_frames("Hello ", SECRET))

    async def fill(log: RedisLog) -> None:
        conversation = Conversation(tenant, name)
        request = json.dumps({"messages": [{"role": "user", "content": SECRET}]})
        await log.watch(conversation, 60)
        ref = (await opened(log, name, conversation=conversation, request=request)).ref
        claim = await claimed(log, ref, nonce=f"n{ref.epoch}")
        await append(log, claim, 0, body)
        if not live:
            await close(log, claim, len(body), b"data: [DONE]\n\n")

    on(url, fill)
    return body if live else body + b"data: [DONE]\n\n"


def queued(url: str, name: str = "c") -> None:
    """A session that waits for a worker."""

    async def fill(log: RedisLog) -> None:
        conversation = Conversation("default", name)
        await log.watch(conversation, 60)
        await opened(log, name, conversation=conversation)

    on(url, fill)
