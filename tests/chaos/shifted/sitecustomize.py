"""Read by a Python under libfaketime: its clock is shifted, and `time.sleep` must work yet.

Python sleeps until a time of the monotonic clock, which libfaketime mistakes for the shifted one.
"""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex) -> None:
    select.select([], [], [], float(seconds))


time.sleep = _sleep
