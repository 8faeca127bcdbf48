"""What one trip to Redis costs, by the client that nodes and workers use. A companion.

python -m tests.benchmarks.redis_floors <Redis's URL>
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import uvloop

from replay.identity import SessionRef
from replay.redis_log import RedisLog
from replay.redis_plane import connect
from tests.benchmarks.companion import serve

LIST = "benchmark:list"
WAIT_S = 2


class RedisFloors:
    """Each answer is in seconds."""

    def __init__(self, url: str) -> None:
        self._redis: Any = connect(url)
        self._log = RedisLog(self._redis)

    async def pings(self, count: int) -> float:
        """So many PINGs, each after the answer to the one before."""
        began_s = time.perf_counter()
        for _ in range(count):
            await self._redis.ping()
        return time.perf_counter() - began_s

    async def wake(self) -> float:
        """From a push to the return of the BLPOP that waited for it."""
        waiting = asyncio.create_task(self._redis.blpop([LIST], WAIT_S))
        blocked = 0
        while not blocked:
            blocked = (await self._redis.info("clients"))["blocked_clients"]
        began_s = time.perf_counter()
        await asyncio.gather(self._redis.rpush(LIST, b"x"), waiting)
        return time.perf_counter() - began_s

    async def pages(self, path: str) -> float:
        """A whole log, read page by page as the hub does."""
        ref = SessionRef.from_path(path)
        offset, end = 0, None
        began_s = time.perf_counter()
        while end is None:
            page = await self._log.read(ref, offset)
            offset = page.chunks[-1].end if page.chunks else offset
            end = page.end
        return time.perf_counter() - began_s

    async def serve(self) -> None:
        """Answers until nobody asks any more."""
        try:
            await serve({"pings": self.pings, "wake": self.wake, "pages": self.pages})
        finally:
            await self._redis.aclose()


if __name__ == "__main__":
    uvloop.run(RedisFloors(sys.argv[1]).serve())
