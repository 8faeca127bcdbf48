"""Signals as bytes in a pipe, so that the launcher waits at one place for all that can happen."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
READ_BYTES_MAX = 512


def _ignore(number: int, frame: FrameType | None) -> None:
    """The byte in the pipe says it all; but only a signal with a handler puts one there."""


class SignalPipe:
    """While open, stop signals and the deaths of children wake `wait`. For the main thread only."""

    def __enter__(self) -> SignalPipe:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {
            number: signal.signal(number, _ignore) for number in (*STOP_SIGNALS, signal.SIGCHLD)
        }
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, before in self._before.items():
            signal.signal(number, before)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float) -> bool:
        """Waits for a signal, at most so long; True when one of those that came asks to stop."""
        readable, _, _ = select.select([self._read], [], [], max(0.0, timeout_s))
        numbers = os.read(self._read, READ_BYTES_MAX) if readable else b""
        return any(number in STOP_SIGNALS for number in numbers)
