"""When inputs are embedded: between the steps of answers, which must not starve meanwhile.

It must not know how a model computes, nor what answers are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from inference_worker.engine import Vectors

Embed = Callable[[Sequence[Sequence[int]]], list[Vectors]]


@dataclass(frozen=True, slots=True)
class EmbedBatch:
    """Inputs that are computed at once, and who waits for their vectors."""

    inputs: Sequence[Sequence[int]]
    vectors: Future[list[Vectors]] = field(default_factory=Future)


class EmbedTurns:
    """The batches that wait. Owned by the batch loop's thread."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._waiting: deque[EmbedBatch] = deque()
        self._next_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, batch: EmbedBatch) -> None:
        """Puts a batch behind the others."""
        self._waiting.append(batch)

    def take_turn(self, *, is_alone: bool) -> None:
        """Computes one batch, if it is time. Unless they are alone, what runs beside them gets as
        much time as a batch took before the next one: it is as long as dozens of steps."""
        if not self._waiting or not (is_alone or time.monotonic() >= self._next_at):
            return
        batch, began_at = self._waiting.popleft(), time.monotonic()
        try:
            batch.vectors.set_result(self._embed(batch.inputs))
        except Exception as error:  # the root of one batch
            batch.vectors.set_exception(error)
        self._next_at = 2 * time.monotonic() - began_at

    def end(self, error: Exception) -> None:
        """Fails all that wait."""
        while self._waiting:
            self._waiting.popleft().vectors.set_exception(error)
