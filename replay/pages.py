"""All that a log has by now, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator

from replay.identity import SessionRef
from replay.log import SessionLog
from replay.log_values import Page


async def pages(log: SessionLog, ref: SessionRef) -> AsyncIterator[Page]:
    """The pages of a log from its first byte on; small ones, since it takes milliseconds to make
    sense of one. Raises what ``SessionLog.read`` does."""
    offset = 0
    while True:
        page = await log.read(ref, offset)
        yield page
        if page.end is not None or not (page.more and page.chunks):
            return
        offset = page.chunks[-1].end
