"""Renewing the leases of this worker's sessions, for as long as it has them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from inference_worker.producer import Producer
from replay.errors import LogUnavailable
from replay.log import Leases
from replay.log_values import AppendStatus, Claim, ClaimStatus
from replay.outage import Outage

RETRY_S = 0.2  # soon: an outage outlives leases, and two looks of a sweeper take them away

logger = logging.getLogger(__name__)

OnLost = Callable[[Claim, AppendStatus], None]


class Renewals:
    """``on_lost`` hears of each claim that is somebody else's, or of a session that is over."""

    def __init__(self, log: Leases, producer: Producer, *, lease_s: float, on_lost: OnLost) -> None:
        self._log = log
        self._producer = producer
        self._lease_s = lease_s
        self._on_lost = on_lost
        self._is_due = asyncio.Event()

    def now(self) -> None:
        """Has the next renewal come at once."""
        self._is_due.set()

    async def run(self) -> None:
        """Renews three times a lease until it is cancelled, more often while it fails."""
        outage = Outage(logger, "leases are not renewed")
        pause_s = self._lease_s / 3
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_due.wait()
            self._is_due.clear()
            claims = self._producer.claims()
            try:
                statuses = await self._log.renew(claims, self._lease_s)
                outage.is_over()
            except LogUnavailable as error:
                outage.goes_on(error)
                statuses = [error] * len(claims)
            is_well = not any(isinstance(status, Exception) for status in statuses)
            pause_s = self._lease_s / 3 if is_well else RETRY_S
            for claim, status in zip(claims, statuses, strict=True):
                if isinstance(status, ClaimStatus) and not self._producer.renewed(claim, status):
                    self._on_lost(claim, AppendStatus(status))
