"""What one process hears of one session, for all of its readers there."""

from __future__ import annotations

import asyncio
import time

from replay.errors import SessionNotFound
from replay.identity import SessionRef
from replay.log import SessionLog
from replay.log_values import Page, Pulse
from replay.records import End, State
from replay.tail import Tail

PULSE_SLACK_S = 2.0
"""How much longer than its keep-alive interval a running session may be silent."""

SILENCE_S = 15.0
"""When a session without keep-alives is asked about."""


class Topic:
    """One session that somebody of this process reads. Owned by its ``Tailer``."""

    def __init__(self, ref: SessionRef, log: SessionLog) -> None:
        self.ref = ref
        self.tails: set[Tail] = set()
        self.members = 0
        self.released = asyncio.Event()
        self.heard = time.monotonic()
        self.ping_interval_s: float = SILENCE_S
        self.waits = True
        self._log = log
        self._asked: dict[int, asyncio.Task[Page]] = {}
        self._under_way: dict[int, asyncio.Task[Page]] = {}

    def hear(self, payload: bytes) -> None:
        """One published message: a chunk, the end, a doubt, or the producer's release."""
        self.heard = time.monotonic()
        if payload.startswith(b"c"):
            start, data = payload[1:].split(b"\n", 1)
            for tail in self.tails:
                tail.offer(int(start), data)
        elif payload.startswith(b"e"):
            end = End.from_json(payload[1:])
            for tail in self.tails:
                tail.offer_end(end)
        elif payload.startswith(b"d"):
            offset, number = payload[1:].split()
            for tail in self.tails:
                tail.doubt(int(offset), int(number))
        elif payload == b"r":
            self.released.set()

    def silent_at(self, now: float) -> bool:
        """Whether the session should be asked how it is."""
        interval = self.ping_interval_s if self.ping_interval_s >= 0 else SILENCE_S
        return now - self.heard >= (interval if self.waits else interval + PULSE_SLACK_S)

    def take(self, pulse: Pulse | None) -> None:
        """What a pulse has told."""
        if pulse is None:
            for tail in self.tails:
                tail.lose(SessionNotFound(self.ref.conversation_id, "it is gone"))
            return
        self.waits = pulse.state in (State.QUEUED, State.LOADING)
        for tail in self.tails:
            if pulse.doubt is not None:
                tail.doubt(pulse.doubt.offset, pulse.doubt.number)
            if pulse.state.is_final or tail.position < pulse.end:
                tail.fall_behind()

    def reread(self) -> None:
        """Sends every reader back to the history: what was read may have been forgotten."""
        for tail in self.tails:
            tail.reread()

    async def page(self, offset: int) -> Page:
        """One page of history, read after this call; readers who ask meanwhile share it.

        A read under way is not shared: what this reader must not miss may have come since.
        """
        task = self._asked.get(offset)
        if task is None:
            task = asyncio.create_task(self._read(offset, self._under_way.get(offset)))
            task.add_done_callback(_retrieved)
            self._asked[offset] = task
        return await asyncio.shield(task)

    async def _read(self, offset: int, before: asyncio.Task[Page] | None) -> Page:
        if before is not None:
            await asyncio.wait([before])
        this = self._under_way[offset] = self._asked.pop(offset)
        try:
            return await self._log.read(self.ref, offset)
        finally:
            if self._under_way.get(offset) is this:
                del self._under_way[offset]

    async def aclose(self) -> None:
        """Ends what the last reader left unfinished."""
        pages = [*self._asked.values(), *self._under_way.values()]
        for task in pages:
            task.cancel()
        await asyncio.gather(*pages, return_exceptions=True)


def _retrieved(task: asyncio.Task[Page]) -> None:
    """Whoever asked may be gone by now; an error is then nobody's."""
    if not task.cancelled():
        task.exception()
