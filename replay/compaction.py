"""Compaction: the many small entries of a settled log become few large blocks.

Whoever's sweeper moves the look at an ended session compacts it, a node or a worker; one that dies
with it leaves the look where the next one finds it. The new entries take the old ones' place in one
script call, so that a crash in the middle of it changes nothing, and a reader in the middle of the
log finds its next byte in either.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from replay.blocks import Block, joined
from replay.errors import LogUnavailable, OffsetExpired
from replay.identity import Conversation
from replay.log import Archive
from replay.log_values import Compactable, Due, Look
from replay.records import Chunk

SETTLED_S = 10.0
"""How long after its end a session is settled: the end has then been on disk for more than 5 s, and
its producer no longer keeps what Redis may have forgotten."""

BYTES_MIN = 4096
"""A smaller log takes less than its record."""

PACKED_BYTES_MAX = 8 * 1024 * 1024
"""What one call hands to Redis at most; a log of more stays as it is."""

GAIN_MIN = 2
"""How many times smaller a log must become."""

WAITING_MAX = 16
"""Conversations that wait for one compactor; others are looked at again, by whoever has time."""

TAKEN_S = 60.0
"""When a conversation that somebody has taken is looked at again, should that one have died."""

REST = 4.0
"""Rests so many times as long as it worked: at most a fifth of a core, generation comes first."""

logger = logging.getLogger(__name__)


class CompactedLog(Archive, Protocol):
    """What a compactor works on; see ``Leases``."""

    async def look(self, conversation: Conversation) -> Look | None: ...

    async def again(self, due: Due, delay_s: float | None) -> Due | None: ...


class Compactor:
    """Compacts what it is given, one conversation at a time. Owned by the task in ``run``."""

    def __init__(self, log: CompactedLog, *, settled_s: float = SETTLED_S) -> None:
        self._log = log
        self._settled_s = settled_s
        self._waiting: asyncio.Queue[Due] = asyncio.Queue(WAITING_MAX)

    @property
    def is_busy(self) -> bool:
        """Whether it takes no more for now."""
        return self._waiting.full()

    def take(self, due: Due) -> None:
        """A conversation whose look was moved by ``TAKEN_S``, for it to be compacted."""
        self._waiting.put_nowait(due)

    async def run(self) -> None:
        """Compacts until it is cancelled. What fails is found again by its look."""
        while True:
            due = await self._waiting.get()
            began_s = time.monotonic()
            try:
                await self.compact(due.conversation)
                await self._let_go(due)
            except LogUnavailable as error:
                logger.warning("not compacted: %s", error)
            await asyncio.sleep(REST * (time.monotonic() - began_s))

    async def _let_go(self, due: Due) -> None:
        """Takes the look out, unless a session was opened meanwhile whose node has died since."""
        look = await self._log.look(due.conversation)
        has_ended = look is None or look.state.is_final
        await self._log.again(due, None if has_ended else 0.0)

    async def compact(self, conversation: Conversation) -> None:
        """Compacts all settled sessions of the conversation. Raises LogUnavailable."""
        found = await self._log.compactable(
            conversation, settled_s=self._settled_s, bytes_min=BYTES_MIN
        )
        for seen in found:
            try:
                blocks = await self._packed(seen)
            except OffsetExpired:
                continue  # it was evicted, and another one has its name
            if blocks and await self._log.compact(seen, blocks):
                packed = sum(len(block.packed) for block in blocks)
                logger.info("compacted to %d bytes of %d: %s", packed, seen.end, seen.ref.path())

    async def _packed(self, seen: Compactable) -> list[Block]:
        """The whole log as blocks; none where that is not to be stored."""
        blocks: list[Block] = []
        rest: list[Chunk | Block] = []
        offset = seen.first
        while offset < seen.end:
            page = await self._log.read(seen.ref, offset)
            if not page.chunks:
                return []
            offset = page.chunks[-1].end
            *whole, last = joined([*rest, *page.chunks])
            rest = [last]
            for chunk in whole if offset < seen.end else [*whole, last]:
                if isinstance(chunk, Block):
                    return []  # somebody else was faster
                blocks.append(Block.of(chunk))
                await asyncio.sleep(0)  # packing one takes a third of a millisecond
        packed = sum(len(block.packed) for block in blocks)
        is_worth_it = packed * GAIN_MIN <= seen.end - seen.first and packed <= PACKED_BYTES_MAX
        return blocks if is_worth_it else []
