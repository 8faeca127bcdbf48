"""A worker that notes when each session got its slot. A companion.

It is the worker itself, set up by its environment; the only difference is a clock behind
``engine.submit``. The clock is Linux's monotonic one, which all processes of a machine share, so
that the benchmark may subtract the time of its POST from it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from inference_worker import worker
from inference_worker.config import WorkerSettings
from inference_worker.engine import Engine, SequenceSpec
from inference_worker.models import open_engine
from tests.benchmarks.companion import serve

logger = logging.getLogger(__name__)


class SlotClock:
    """When (monotonic seconds) each session, named by its path, was given a slot."""

    def __init__(self) -> None:
        self._slots: dict[str, float] = {}

    def open_engine(self, settings: WorkerSettings, name: str, path: Path, told: Any) -> Engine:
        """The worker's own engine, with the clock behind ``submit``."""
        engine: Any = open_engine(settings, name, path, told)
        submit = engine.submit

        def noted(spec: SequenceSpec) -> None:
            submit(spec)
            self._slots[spec.id] = time.monotonic()

        engine.submit = noted
        return engine

    async def slots(self) -> dict[str, float]:
        """All since the last time."""
        taken, self._slots = self._slots, {}
        return taken


async def run() -> None:
    """The worker, until nobody asks any more."""
    clock = SlotClock()
    worker.open_engine = clock.open_engine
    stop = asyncio.Event()
    running = asyncio.create_task(worker.Worker(WorkerSettings()).run(stop))
    try:
        await serve({"slots": clock.slots})
    finally:
        stop.set()
        await running


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    uvloop.run(run())
