"""``if_busy=queue``: a POST waits until the live session of its conversation has ended.

The order is the log's (``SessionLog.open``); here is only the waiting, and whatever ends it early.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.node import Node
from api.problems import Unavailable
from replay.errors import LogUnavailable, ReplayError
from replay.identity import Conversation, SessionRef
from replay.limits import PLACE_S
from replay.records import End

RENEW_S = PLACE_S / 3
"""How long a POST waits at most before it asks again, which renews its place."""

LOOK_S = 0.1
"""How often it looks whether its node drains, and whether it is next."""


class Line:
    """A place in the line, as a block: it is given up when the block ends.

    Owned by the task of the request, whose body must have been received.
    """

    def __init__(
        self, node: Node, conversation: Conversation, nonce: str, receive: Receive
    ) -> None:
        self._node = node
        self._conversation = conversation
        self._nonce = nonce
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + node.settings.busy_wait_s
        self._gone: asyncio.Task[object]

    async def __aenter__(self) -> Line:
        self._gone = asyncio.ensure_future(self._receive())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await _ended(self._gone)
        with suppress(LogUnavailable):  # then the place expires
            await self._node.log.leave_line(self._conversation, self._nonce)

    async def wait(self, live: SessionRef | None) -> None:
        """Returns when it is time to ask again: ``live`` has ended, or a while has passed.

        Without ``live`` another is next. Raises ClientDisconnect, and Unavailable where there is no
        more time or the node drains.
        """
        again = self._loop.time() + RENEW_S
        watch = asyncio.create_task(self._watch(live), name="line")
        try:
            while not watch.done() and self._loop.time() < again:
                self._check()
                await asyncio.wait({watch, self._gone}, timeout=LOOK_S)
        finally:
            await _ended(watch)

    def _check(self) -> None:
        if self._gone.done():
            raise ClientDisconnect
        if self._node.presence.draining:
            raise Unavailable("the node is draining", "draining")
        if self._loop.time() >= self._until:
            raise Unavailable("the conversation is busy, retry later", "busy")

    async def _watch(self, live: SessionRef | None) -> None:
        """Reads on at the session's end, until it has ended."""
        if live is None:
            await asyncio.sleep(LOOK_S)
            return
        try:
            record = await self._node.log.resolve(live.tenant, live.conversation_id, live.epoch)
            ping_s = record.ping_interval_s
            async with self._node.tailer.tail(live, record.end, ping_interval_s=ping_s) as tail:
                while not isinstance(await tail.next(), End):
                    pass
        except ReplayError:
            await asyncio.sleep(LOOK_S)  # expired, evicted or away: the log knows, if asked again


async def _ended(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait([task])
