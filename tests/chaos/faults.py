"""Makes a plan's faults happen in a world, and undoes what has an end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from deploy.local.cluster import ClusterFailed
from deploy.local.redis_server import answers
from tests.redis_planes import in_the_end

from .plan import Fault, Kind
from .proxy import Link
from .world import World

DELAY_S = 0.15
THROTTLE_BYTES_S = 20_000.0
FILL_BYTES = 64 * 1024


class Faults:
    """The faults of one run. Those of Redis follow one another; others may overlap."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._redis_lock = asyncio.Lock()

    async def happen(self, fault: Fault) -> None:
        """One fault from its time on, and its end."""
        await asyncio.sleep(fault.at_s)
        if fault.target == "redis":
            async with self._redis_lock:
                await self._of_redis(fault)
        elif ":" in fault.target:
            await self._of_link(fault, self._world.links[fault.target])
        else:
            await self._of_child(fault)

    async def _of_child(self, fault: Fault) -> None:
        number = {Kind.KILL: signal.SIGKILL, Kind.TERM: signal.SIGTERM}.get(
            fault.kind, signal.SIGSTOP
        )
        with suppress(ClusterFailed, ProcessLookupError):  # it is dead already
            pid = self._world.cluster.kill(fault.target, number)
            if number != signal.SIGSTOP:
                self._world.doomed.add(pid)
                return
            try:
                await asyncio.sleep(fault.for_s)
            finally:
                os.kill(pid, signal.SIGCONT)

    async def _of_link(self, fault: Fault, link: Link) -> None:
        match fault.kind:
            case Kind.RESET:
                link.reset()
            case Kind.HALF_OPEN:
                link.half_open()
            case Kind.HOLD:
                link.open.clear()
            case Kind.DELAY:
                link.delay_s = DELAY_S
            case Kind.THROTTLE:
                link.bytes_per_s = THROTTLE_BYTES_S
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            link.open.set()
            link.delay_s = link.bytes_per_s = 0.0

    async def _of_redis(self, fault: Fault) -> None:
        if fault.kind is Kind.FAILOVER:
            await self._fail_over(fault)
            return
        redis = self._world.redis
        if fault.kind is Kind.CRASH:
            await asyncio.to_thread(redis.restart, after_s=fault.for_s, lost_bytes=fault.cut_bytes)
            return
        end: Callable[[], Awaitable[None]]
        if fault.kind is Kind.FREEZE:
            os.kill(redis.pid, signal.SIGSTOP)
            end = self._thaw
        else:
            await asyncio.to_thread(self._fill)
            end = self._make_room
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            await end()

    async def _fail_over(self, fault: Fault) -> None:
        plane = self._world.plane
        assert plane is not None
        was = await asyncio.to_thread(plane.master)
        if not fault.for_s:
            was.stop()
            await asyncio.to_thread(in_the_end, lambda: plane.leads_another_than(was))
            await asyncio.to_thread(was.start)
            return
        os.kill(was.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.for_s)
            await asyncio.to_thread(in_the_end, lambda: plane.leads_another_than(was))
        finally:
            os.kill(was.pid, signal.SIGCONT)

    async def _thaw(self) -> None:
        os.kill(self._world.redis.pid, signal.SIGCONT)

    def _fill(self) -> None:
        with suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while filler.write(bytes(FILL_BYTES)):
                pass

    async def _make_room(self) -> None:
        self._filler.unlink()
        redis = self._world.redis
        if not await asyncio.to_thread(answers, redis.port):
            # With `appendfsync always` it ends by itself where it cannot write.
            await asyncio.to_thread(redis.restart)

    @property
    def _filler(self) -> Path:
        return self._world.redis.folder / "filler"
