"""What a node has a worker do with the KV cache of one of its slots. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

SAVE, RESTORE, ERASE = ACTIONS = ("save", "restore", "erase")

FILE_NAME_BYTES_MAX = 200
"""Longest name of a file; a worker writes it under a longer one first."""

_FILE_NAME = re.compile(r'(?![ .])[^\x00-\x1f\x7f-\x9f/\\:*?"<>|]+(?<![ .])')


@dataclass(frozen=True, slots=True)
class SlotOrder:
    """``slot`` is its number among the model's at that worker. To save and to restore needs a
    ``filename``, of a file in the worker's folder."""

    worker: str
    slot: int
    action: str
    filename: str = ""


@dataclass(frozen=True, slots=True)
class SlotChanged:
    """How many tokens were saved, restored or erased, how large the file is, and what it took."""

    token_count: int
    file_bytes: int = 0
    took_ms: float = 0.0


def is_file_name(text: str) -> bool:
    """Whether it names a file of one folder, and can name nothing outside of it, on any system."""
    if not _FILE_NAME.fullmatch(text) or ".." in text:
        return False
    try:
        return len(text.encode()) <= FILE_NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False
