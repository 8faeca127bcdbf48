"""Clients as they are: they ask, read, lose the line, go on at another node, and note everything.

A client counts bytes. Whatever happens to its line, it asks the next node for the next byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import httpx

from .oracle import Evidence, Refusal, Segment
from .plan import Ask, Follow

CHAT, STREAM = "/v1/chat/completions", "/v1/stream"
ID, NAME = "X-Completion-Id", "X-Conversation-Id"
PING_INTERVAL_S = 1
SILENCE_S = 10.0
"""How long a client waits for a byte; a living line shows a keep-alive each second or so."""

TIMEOUT = httpx.Timeout(SILENCE_S, connect=3.0, pool=None)
PAUSE_S = 0.2
RETRIED = (503,)
NOT_YET_S = 20.0
"""How long a reader that came before the POST takes 404 for "not yet"."""


class Lines:
    """The nodes as clients reach them: one HTTP client for all."""

    def __init__(self, nodes: Sequence[str], http: httpx.AsyncClient) -> None:
        self.nodes = nodes
        self.http = http

    def url(self, node: int, path: str) -> str:
        """A path at a node, counted round."""
        return self.nodes[node % len(self.nodes)] + path


@asynccontextmanager
async def lines_to(nodes: Sequence[str]) -> AsyncIterator[Lines]:
    """Clients of these nodes for a block."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=limits, verify=False) as http:
        yield Lines(nodes, http)


class Reader:
    """One who wants every byte of one session; what comes is noted in the evidence.

    ``position`` is its byte count, ``epoch`` the session's once it is known.
    """

    def __init__(self, who: str, name: str, lines: Lines, evidence: Evidence) -> None:
        self.who = who
        self.name = name
        self.position = 0
        self.epoch: int | None = None
        self.sends_epoch = True
        self.hop_bytes = 0
        self.pace_bytes_s = 0
        self._lines = lines
        self._evidence = evidence
        self._patience_ends_s = asyncio.get_running_loop().time() + NOT_YET_S

    async def take(self, response: httpx.Response) -> str:
        """Reads one response until it ends; how it did: "whole", "cut", "silent" or "left"."""
        epoch, session = int(response.headers["X-Stream-Epoch"]), response.headers[ID]
        if epoch != self.epoch:  # without an epoch, a replaced conversation is another log
            self.epoch, self.position = epoch, int(response.headers.get("X-Stream-Offset", 0))
        asked = int(response.request.url.params.get("epoch", 0)) or None
        start, data, ended = self.position, bytearray(), "whole"
        try:
            async for part in response.aiter_raw():
                data += part
                if self.hop_bytes and len(data) >= self.hop_bytes:
                    ended = "left"
                    break
                if self.pace_bytes_s:
                    await asyncio.sleep(len(part) / self.pace_bytes_s)
        except httpx.ReadTimeout:
            ended = "silent"
        except httpx.TransportError:
            ended = "cut"
        except asyncio.CancelledError:
            ended = "hung"
            raise
        finally:
            self.position = start + len(data)
            self._evidence.segments.append(
                Segment(self.who, self.name, session, asked, epoch, start, bytes(data), ended)
            )
        return ended

    async def follow(self, node: int) -> None:
        """Reads on from its position, node after node, until the end or a refusal."""
        for turn in count(node):
            params: dict[str, str | int] = {"conv_id": self.name, "from": self.position}
            if self.epoch is not None and self.sends_epoch:
                params["epoch"] = self.epoch
            url = self._lines.url(turn, STREAM)
            try:
                async with self._lines.http.stream("GET", url, params=params) as response:
                    if response.status_code == 200:
                        if await self.take(response) == "whole":
                            return
                        continue
                    await response.aread()
                    if self._is_told(response):
                        return
            except httpx.TransportError:
                pass
            await asyncio.sleep(PAUSE_S)

    def _is_told(self, response: httpx.Response) -> bool:
        """Whether this refusal is an answer, and not a request to come again."""
        status = response.status_code
        if status in RETRIED:
            return False
        is_early = asyncio.get_running_loop().time() < self._patience_ends_s
        if self.epoch is None and status == 404 and is_early:
            return bool(response.json()["error"]["reason"]) and self._note(response)
        return self._note(response)

    def _note(self, response: httpx.Response) -> bool:
        epoch = self.epoch if self.sends_epoch else None
        self._evidence.refusals.append(
            Refusal(self.who, self.name, epoch, self.position, response.status_code, response.text)
        )
        return True


async def follow(follow: Follow, who: str, lines: Lines, evidence: Evidence) -> None:
    """One reader of the plan."""
    await asyncio.sleep(follow.at_s)
    reader = Reader(who, follow.name, lines, evidence)
    reader.sends_epoch = follow.sends_epoch
    reader.hop_bytes, reader.pace_bytes_s = follow.hop_bytes, follow.pace_bytes_s
    await reader.follow(follow.node)


async def ask(ask: Ask, who: str, lines: Lines, evidence: Evidence) -> None:
    """One POST of the plan; its client then follows what it was answered by."""
    await asyncio.sleep(ask.at_s)
    reader = Reader(who, ask.name, lines, evidence)
    reader.hop_bytes = ask.leaves_after_bytes
    query = f"?if_busy={ask.if_busy}" if ask.if_busy else ""
    for turn in count(ask.node):
        url = lines.url(turn, CHAT + query)
        try:
            post = lines.http.stream("POST", url, json=body_of(ask), headers=_naming(ask))
            async with post as response:
                if response.status_code == 200:
                    reader.name = response.headers.get(NAME, ask.name)
                    ended = await reader.take(response)
                    if ended != "whole" and reader.name:
                        await reader.follow(turn + 1)
                    return
                await response.aread()
                if _is_answered(ask, response):
                    return
                if response.status_code not in RETRIED:
                    refusal = Refusal(who, ask.name, None, 0, response.status_code, response.text)
                    evidence.refusals.append(refusal)
                    return
        except httpx.TransportError:
            pass  # whether it was opened is not known; without a key, asking again replaces it
        await asyncio.sleep(PAUSE_S)


def _is_answered(ask: Ask, response: httpx.Response) -> bool:
    """Whether this status is what the request was to come to."""
    if response.status_code == 409:
        return ask.if_busy == "reject"
    return "X-Stream-Epoch" in response.headers  # it was opened, and ended without a word


def body_of(ask: Ask) -> dict[str, object]:
    """The request's body."""
    wishes: dict[str, object] = {
        "messages": [{"role": "user", "content": ask.words}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "sse_ping_interval": PING_INTERVAL_S,
    }
    if ask.stop:
        wishes["stop"] = [ask.stop]
    if ask.max_tokens >= 0:
        wishes["max_tokens"] = ask.max_tokens
    return wishes


def _naming(ask: Ask) -> dict[str, str]:
    named = {NAME: ask.name, "Idempotency-Key": ask.key}
    return {header: value for header, value in named.items() if value}
