"""``POST /v1/streams/events``: what becomes of the conversations that a client names, as SSE.

One feed serves a whole page: what was opened, how far it is, how it ended. It shows only what a
lookup of the same ids would show; a client that was cut asks again and gets the present state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from api import requests
from api.connection import Comeback, Connection
from api.json_body import parse_json
from api.lasting import Lasting
from api.node import Node, NodeDep
from api.stream import names_asked, summaries
from api.stream_response import STREAM_HEADERS, ConnectedResponse
from replay import frames
from replay.errors import LogUnavailable
from replay.identity import Conversation

PROGRESS_S = 1.0
"""How often the progress of live sessions is told."""

QUIET_S = 10.0
"""How often all is looked at again while nothing is live and no change is heard."""

PAUSE_S = 0.1
"""Between two looks: what changes together is told together."""

PING_S = 15.0

Summary = Mapping[str, Any]

router = APIRouter()


@router.post("/v1/streams/events")
async def feed_streams(request: Request, node: NodeDep) -> Response:
    """Events of the ids in the body's ``conversation_ids``: session, progress, ended, gone."""
    node.presence.check_open()
    body = parse_json(await requests.read_body(request, node.settings.body_bytes_max))
    names = names_asked(body, node.settings.lookup_ids_max)
    return Lasting(FeedResponse(node, requests.tenant_of(request), names))


@dataclass(frozen=True, slots=True)
class Seen:
    """A session as it was told last, and when its tokens were counted."""

    summary: Summary
    at_s: float


class Changes:
    """Turns successive looks at the same sessions into events. Pure but for the time given."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}

    @property
    def has_live(self) -> bool:
        """Whether a session goes on, so that progress is to be told."""
        return any(not seen.summary["is_done"] for seen in self._seen.values())

    def events(self, summaries: Sequence[Summary], now_s: float) -> bytes:
        """The events since the look before; b"" where there are none."""
        found = {str(summary["conversation_id"]): summary for summary in summaries}
        told = [
            frames.event("gone", {"conversation_id": name})
            for name in sorted(self._seen.keys() - found)
        ]
        for name, summary in found.items():
            told.append(self._event(self._seen.get(name), summary, now_s))
        self._seen = {name: Seen(summary, now_s) for name, summary in found.items()}
        return b"".join(told)

    def _event(self, before: Seen | None, summary: Summary, now_s: float) -> bytes:
        if before is None or before.summary["epoch"] != summary["epoch"]:
            return frames.event("session", summary)
        if before.summary == summary:
            return b""
        if summary["is_done"]:
            return frames.event("ended", summary)
        added = summary["tokens"] - before.summary["tokens"]
        rate = added / max(now_s - before.at_s, PAUSE_S)
        return frames.event("progress", {**summary, "tokens_per_second": round(rate, 1)})


class FeedResponse(ConnectedResponse):
    """One client's feed, until it leaves or is cut."""

    __slots__ = ("_names", "_node", "_tenant")

    def __init__(self, node: Node, tenant: str, names: Sequence[str]) -> None:
        super().__init__(node.connections, Comeback.REPEAT)
        self._node = node
        self._tenant = tenant
        self._names = list(dict.fromkeys(names))

    async def serve(self, connection: Connection) -> None:
        """Sends events as they come. Raises LogUnavailable before the first."""
        node, changes, heard_s = self._node, Changes(), time.monotonic()
        conversations = [Conversation(self._tenant, name) for name in self._names]
        async with node.tailer.changes(conversations) as changed:
            told = await self._look(changes)
            await connection.start(200, list(STREAM_HEADERS))
            while True:
                if not told and time.monotonic() - heard_s >= PING_S:
                    told = frames.PING
                if told:
                    heard_s = time.monotonic()
                    await connection.body(told)
                await asyncio.sleep(PAUSE_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROGRESS_S if changes.has_live else QUIET_S):
                        await changed.wait()
                changed.clear()
                with suppress(LogUnavailable):  # told by the next look that is answered
                    told = b""
                    told = await self._look(changes)

    async def _look(self, changes: Changes) -> bytes:
        found = await summaries(self._node, self._tenant, self._names)
        return changes.events(found, time.monotonic())
