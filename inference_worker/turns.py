"""What is done between two steps for somebody who waits, and when: answers must not starve.

It must not know what is done, nor what answers are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Turn(Generic[Result]):
    """What is to be done at once, and who waits for what comes of it."""

    act: Callable[[], Result]
    result: Future[Result] = field(default_factory=Future)


class Turns:
    """The turns that wait. Owned by the batch loop's thread."""

    def __init__(self) -> None:
        self._waiting: deque[Turn[Any]] = deque()
        self._next_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, turn: Turn[Any]) -> None:
        """Puts it behind the others."""
        self._waiting.append(turn)

    def take(self, *, is_alone: bool) -> None:
        """Takes one turn, if it is time. Unless they are alone, what runs beside them gets as much
        time as a turn took before the next one: it may be as long as dozens of steps."""
        if not self._waiting or not (is_alone or time.monotonic() >= self._next_at):
            return
        turn, began_at = self._waiting.popleft(), time.monotonic()
        try:
            turn.result.set_result(turn.act())
        except Exception as error:  # the root of one turn
            turn.result.set_exception(error)
        self._next_at = 2 * time.monotonic() - began_at

    def end(self, error: Exception) -> None:
        """Fails all that wait."""
        while self._waiting:
            self._waiting.popleft().result.set_exception(error)
