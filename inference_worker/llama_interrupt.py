"""How a decode of llama.cpp is ended early, and what llama.cpp says meanwhile."""

from __future__ import annotations

import ctypes
import logging
import threading
from typing import Any

import llama_cpp

log = logging.getLogger(__name__)


class Interrupt:
    """A byte that llama.cpp looks at after each operation of a decode; a block is one decode.

    It looks through libc's strlen, which tells 0 or 1. A function in Python would wait for the
    interpreter's lock at each of some 600 operations: beside a busy event loop that made 4 s of
    0.75 s for a prompt chunk.
    """

    def __init__(self, context: Any) -> None:
        self._byte = ctypes.create_string_buffer(2)
        look = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
        where = ctypes.cast(self._byte, ctypes.c_void_p)
        llama_cpp.llama_set_abort_callback(context, look, where)

    @property
    def is_set(self) -> bool:
        """Whether the decode is to end early."""
        return bool(self._byte.value)

    def set(self) -> None:
        """Lets the decode end early; from any thread."""
        self._byte.value = b"1"

    def __enter__(self) -> None:
        self._byte.value = b""
        _decoding.interrupt = self

    def __exit__(self, *_: object) -> None:
        _decoding.interrupt = None


_decoding = threading.local()
"""Its ``interrupt`` is the one of the decode that this thread runs."""


_LOG_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
"""ggml's levels; what is below a warning is not passed on."""


def _log_line(level: int, text: bytes, _: Any) -> None:
    interrupt: Interrupt | None = getattr(_decoding, "interrupt", None)
    if interrupt is not None and interrupt.is_set:
        return  # llama.cpp calls it an error, in four lines
    if level in _LOG_LEVELS:
        log.log(_LOG_LEVELS[level], "%s", text.decode("utf-8", "replace").rstrip())


ON_LOG = llama_cpp.llama_log_callback(_log_line)
"""llama.cpp holds a pointer to it for as long as the program runs."""
