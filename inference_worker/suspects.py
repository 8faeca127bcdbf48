"""Suspects: sessions that a worker died with enter the engines of this one one after the other.

The next one enters when the log shows that the one before does no harm, so that another death has
one culprit. All are claimed at once, wait for their disk together, and are gone on with as fast as
the trials allow; the death of a worker at which a session only waited does not count against it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from inference_worker.engine import Engine
from inference_worker.session import Session
from replay.errors import LogUnavailable
from replay.log import Leases
from replay.log_values import ClaimStatus

ENTER_RETRY_S = 0.1

logger = logging.getLogger(__name__)


class Suspects:
    """One worker's suspects, in the order of their claims. Owned by the event loop."""

    def __init__(
        self,
        log: Leases,
        *,
        submit: Callable[[Session], None],
        refused: Callable[[Session, ClaimStatus], None],
    ) -> None:
        self._log = log
        self._submit = submit
        self._refused = refused
        self._waiting: asyncio.Queue[Session] = asyncio.Queue()
        self._sessions: set[Session] = set()

    def add(self, session: Session) -> None:
        """Takes a session that has entered no engine yet; it is submitted when its turn comes."""
        self._sessions.add(session)
        self._waiting.put_nowait(session)

    def waiting_for(self, engine: Engine) -> int:
        """How many sessions will want a slot of that engine."""
        waiting = (one for one in self._sessions if one.is_waiting and not one.left.is_set())
        return sum(one.engine is engine for one in waiting)

    async def run(self) -> None:
        """Lets one at a time enter, until it is cancelled."""
        while True:
            session = await self._waiting.get()
            if await self._may_enter(session):
                self._submit(session)
                await session.outlet.trusted.wait()
                if session.outlet.closed.is_set():
                    await session.left.wait()
            self._sessions.discard(session)

    async def _may_enter(self, session: Session) -> bool:
        while not session.left.is_set():
            try:
                status = await self._log.enter(session.claim)
            except LogUnavailable as error:
                logger.warning("a suspect waits: %s", error)
            else:
                if status is ClaimStatus.RENEWED:
                    return not session.left.is_set()
                self._refused(session, status)
            await asyncio.sleep(ENTER_RETRY_S)
        return False
