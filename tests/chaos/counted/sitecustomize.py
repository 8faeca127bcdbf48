"""Read by a Python whose tasks are to be counted: at SIGUSR1 it writes how many there are."""

import asyncio.tasks
import os
import signal
from pathlib import Path
from types import FrameType

FOLDER = Path(os.environ["CHAOS_COUNTS"])


def _tell(number: int, frame: FrameType | None) -> None:
    alive = sum(not task.done() for task in list(asyncio.tasks._all_tasks))  # type: ignore[attr-defined]
    part = FOLDER / f"{os.getpid()}.part"
    part.write_text(str(alive))
    part.rename(FOLDER / str(os.getpid()))


signal.signal(signal.SIGUSR1, _tell)
