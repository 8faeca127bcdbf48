"""One client's connection while it is being answered: whether it is still there, and how it is cut.

A *cut* ends a response without its final chunk, so that no SDK takes it for the end of the answer.
Nothing here knows what is sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from types import TracebackType

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

CUT = "replay.cut"
"""The ASGI extension by which our server lets a response abort its transport."""


class ResponseCut(Exception):
    """Tells a server without that extension to end the connection uncleanly."""


class Comeback(IntEnum):
    """How a client goes on after a cut; the greater, the more the cut costs it."""

    REPEAT = 0
    """It asks the same again, from the byte that it has come to."""

    BY_NAME = 1
    """It asked by POST and must know that a GET of the name goes on."""

    NONE = 2
    """What it has not yet got is lost to it."""


class Connection:
    """A block during which the client is watched: it ends when the client leaves.

    Owned by the task that enters it. ``left`` tells afterwards whether the client had gone (or was
    cut) before the block was through.
    """

    __slots__ = (
        "_cut",
        "_owner",
        "_receive",
        "_send",
        "_start",
        "_watcher",
        "comeback",
        "left",
        "old_at",
        "sending_since",
        "started",
        "wants_body",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        start: Send,
        comeback: Comeback = Comeback.REPEAT,
    ) -> None:
        """``start`` takes the status line; it is forgotten after that."""
        self.comeback = comeback
        self.old_at = float("inf")
        self.wants_body = scope.get("method") != "HEAD"
        self._cut: Callable[[], None] | None = scope.get("extensions", {}).get(CUT)
        self._receive = receive
        self._send = send
        self._start: Send | None = start
        self._owner: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.left = False
        self.started = False
        self.sending_since = 0.0

    async def __aenter__(self) -> Connection:
        self._owner = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch(), name="connection")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        assert self._owner is not None and self._watcher is not None
        self._watcher.cancel()
        if not self.left:
            await asyncio.wait([self._watcher])
            return False
        if kind is not asyncio.CancelledError:
            # The watcher's cancellation is still to be delivered; it belongs to this block.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        return self._owner.uncancel() == 0 and kind is asyncio.CancelledError

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if not self.left:
            self.left = True
            assert self._owner is not None
            self._owner.cancel()

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Sends status line and headers; the body follows in chunks."""
        send, self._start = self._start, None
        assert send is not None, "started twice"
        self.started = True
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def answer(self, response: Response) -> None:
        """Sends a whole short answer instead."""
        send, self._start = self._start, None
        assert send is not None, "started twice"
        await response({"type": "http"}, self._receive, send)

    async def body(self, data: bytes) -> None:
        """Sends one HTTP chunk; ``data`` must not be empty."""
        await self._send_timed({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        """Sends the final chunk."""
        await self._send_timed({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_timed(self, message: Message) -> None:
        self.sending_since = time.monotonic()
        try:
            await self._send(message)
        finally:
            self.sending_since = 0.0

    def cut(self) -> None:
        """Ends the connection without the final chunk; the block ends as if the client had left."""
        if self._cut is not None:
            self._cut()
        self._leave()

    @property
    def needs_raise(self) -> bool:
        """Whether a cut must be told to the server by an exception."""
        return self._cut is None and self.left and self.started


class Connections:
    """The responses of this node that are under way. Owned by the node's event loop."""

    def __init__(self, age_s: float = 0.0) -> None:
        """``age_s``: at what age a response that its client can repeat is old; 0: never."""
        self._age_s = age_s
        self._open: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """From now on it is watched and, in a drain, cut."""
        if connection.comeback is Comeback.REPEAT:
            connection.old_at = time.monotonic() + lifetime(self._age_s)
        self._open.add(connection)
        self._empty.clear()

    def discard(self, connection: Connection) -> None:
        """It is through."""
        self._open.discard(connection)
        if not self._open:
            self._empty.set()

    def cut_slow(self, timeout_s: float) -> int:
        """Cuts those whose client has not taken a write for so long; returns how many."""
        before = time.monotonic() - timeout_s
        return self._cut([one for one in self._open if 0 < one.sending_since < before])

    def cut_old(self) -> int:
        """Cuts those that are old; their clients come back elsewhere. Returns how many."""
        now = time.monotonic()
        return self._cut([one for one in self._open if one.old_at < now])

    def _cut(self, chosen: list[Connection]) -> int:
        for connection in chosen:
            connection.cut()
        return len(chosen)

    async def cut_all(self, spread_s: float) -> None:
        """Cuts all within ``spread_s``, those whom it costs least first.

        Who can come back is cut one after another, so that not all return at once; who cannot has
        the whole time to finish.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + spread_s
        returning = [one for one in self._open if one.comeback is not Comeback.NONE]
        returning.sort(key=lambda one: one.comeback)
        for number, connection in enumerate(returning):
            if connection in self._open:
                self.discard(connection)
                connection.cut()
            await asyncio.sleep(max(0.0, until - loop.time()) / (len(returning) - number))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._empty.wait()
        for connection in list(self._open):
            self.discard(connection)
            connection.cut()


def lifetime(age_s: float) -> float:
    """How long something may live that is old at ``age_s``, in s; infinite for 0.

    Drawn from the second half of it, so that what started together does not end together.
    """
    return random.uniform(age_s / 2, age_s) if age_s else float("inf")
