"""``python -m inference_worker``: one worker, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import uvloop

from inference_worker.config import WorkerSettings
from inference_worker.engine import EngineError
from inference_worker.worker import Worker
from replay.errors import RedisUnfit
from replay.redis_url import check_planes

SWITCH_INTERVAL_S = 0.0005
"""How long the event loop keeps the engine's thread from going on, at most. A GPU takes 2 ms for a
step, and Python's 5 ms would be more than all of it."""


async def serve(settings: WorkerSettings) -> None:
    """Runs the worker; a second signal changes nothing. Raises ValueError, EngineError."""
    check_planes(settings.redis_url, settings.queue_redis_url)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Worker(settings).run(stop)


def main() -> int:
    """The exit code: 1 where models, settings or Redis are not as they must be."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    code = 0
    try:
        uvloop.run(serve(WorkerSettings()))
    except* (EngineError, RedisUnfit, ValueError) as group:
        for error in group.exceptions:
            logging.error("cannot go on: %s", error)
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
