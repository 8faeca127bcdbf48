"""LoRA adapters: what workers have loaded, what is asked of them, what sessions run with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replay.records import known_fields

Scales = tuple[tuple[int, float], ...]
"""Adapters by their places in a worker's list, and how much of each is wanted; none of all others.
Empty: of each as much as its worker says."""

APPLIED_MAX = 2
"""llama.cpp adds up more in an order that differs from process to process, and so does the sum."""

Applied = tuple[tuple[str, float], ...]
"""What a session runs with: the SHA-256 of each adapter's file and its scale, which is not 0. Their
order decides how sums are rounded."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter of one model as a worker has it, with the ``scale`` that counts where a request
    names none. ``task_name`` and ``prompt_prefix`` are its file's words."""

    path: str
    sha256: str
    scale: float = 1.0
    task_name: str = ""
    prompt_prefix: str = ""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Adapter:
        """One adapter of a worker's record."""
        return cls(**known_fields(cls, raw))


def pairs(raw: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    """``Scales`` or ``Applied`` of what JSON kept of them."""
    return tuple(tuple(pair) for pair in raw)
