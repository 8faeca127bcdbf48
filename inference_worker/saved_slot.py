"""A copy of what a slot's KV cache held. A value only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replay.adapters import Applied


@dataclass(frozen=True, slots=True)
class SavedSlot:
    """``tokens`` are whole chunks of a prompt, ``data`` is their keys and values as the model wrote
    them, computed with ``adapters``: to be read only where all of ``made_by`` is the same."""

    made_by: Mapping[str, str]
    tokens: tuple[int, ...]
    data: bytes | memoryview
    adapters: Applied = ()
