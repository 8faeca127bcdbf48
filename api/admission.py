"""Whether another session may be opened: how many of a tenant's wait or live, how many wait in all.

Nothing is counted that could drift: what waits stands in the queues, what lives in the watch index,
and both forget what has ended or died. Nodes do not wait for each other, so the limits are soft by
what the other nodes are opening at the same moment.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.catalog import Model
from api.config import ApiSettings
from api.dispatch import JobQueue
from api.problems import TooManySessions, Unavailable

COUNT_AGE_S = 0.25
"""How old a count may be: who is at the limit asks again and again, and a queue is to be read."""

COUNTS_MAX = 1000
"""How many counts are kept."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What waits for the model, what of the tenant's waits (at most), what of it lives."""

    depth: int
    queued: int
    live: int


class Admission:
    """The limits as this node keeps them. Owned by the event loop."""

    def __init__(
        self, settings: ApiSettings, queue: JobQueue, live: Callable[[str], Awaitable[int]]
    ) -> None:
        """``live`` counts a tenant's sessions that have not ended."""
        self._settings = settings
        self._queue = queue
        self._live = live
        self._opening: Counter[str] = Counter()
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}

    @asynccontextmanager
    async def place(
        self, tenant: str, model: Model, models: Sequence[Model]
    ) -> AsyncIterator[None]:
        """A block in which one session may be opened; what it opens counts from the start.

        Raises TooManySessions and Unavailable.
        """
        seen = await self._look(tenant, model, models)
        # From the look on nothing is awaited, or a burst would pass together.
        self._decide(tenant, seen)
        self._opening[tenant] += 1
        try:
            yield
            for kind in ("queued", "live"):
                counted_at, found = self._counts.get((kind, tenant), (0.0, 0))
                self._counts[kind, tenant] = (counted_at, found + 1)
        finally:
            self._opening[tenant] -= 1
            if not self._opening[tenant]:
                del self._opening[tenant]

    async def _look(self, tenant: str, model: Model, models: Sequence[Model]) -> _Seen:
        names = [one.name for one in models]
        depths = dict(zip(names, await self._queue.depths(names), strict=True))
        queued, most = sum(depths.values()), self._settings.tenant_queued_max
        if most and queued + self._opening[tenant] >= most:
            # All that wait, whosever, are too many: only then is it worth counting.
            queued = await self._counted(
                "queued", tenant, lambda: self._queue.waiting(tenant, names)
            )
        live = 0
        if self._settings.tenant_live_max:
            live = await self._counted("live", tenant, lambda: self._live(tenant))
        return _Seen(depths.get(model.name, 0), queued, live)

    def _decide(self, tenant: str, seen: _Seen) -> None:
        limits, opening = self._settings, self._opening[tenant]
        if seen.depth + self._opening.total() >= limits.queue_depth_max:
            raise Unavailable("too many requests wait for this model, retry later", "queue")
        if limits.tenant_queued_max and seen.queued + opening >= limits.tenant_queued_max:
            raise TooManySessions("queued", limits.tenant_queued_max)
        if limits.tenant_live_max and seen.live + opening >= limits.tenant_live_max:
            raise TooManySessions("live", limits.tenant_live_max)

    async def _counted(self, kind: str, tenant: str, count: Callable[[], Awaitable[int]]) -> int:
        """The count, or a recent one."""
        counted_at, found = self._counts.get((kind, tenant), (0.0, 0))
        if time.monotonic() - counted_at > COUNT_AGE_S:
            found = await count()
            if len(self._counts) >= COUNTS_MAX:
                self._counts.clear()
            self._counts[kind, tenant] = (time.monotonic(), found)
        return found
