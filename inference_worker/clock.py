"""When things happened to a sequence, and what its timings say of it.

It must not know models or threads; the batch loop's thread is its only owner.
"""

from __future__ import annotations

import time

from inference_worker.engine import Timings
from inference_worker.sequence import Sequence


class Clock:
    """When a sequence was first fed, and when it first and last sampled (monotonic seconds)."""

    def __init__(self) -> None:
        self._fed_at = 0.0
        self._first_at = 0.0
        self._last_at = 0.0

    def feeds(self) -> None:
        """Something is fed now."""
        self._fed_at = self._fed_at or time.monotonic()

    def sampled(self) -> None:
        """A token was sampled now."""
        self._last_at = time.monotonic()
        self._first_at = self._first_at or self._last_at

    def timings(self, sequence: Sequence) -> Timings:
        """What this attempt took so far."""
        return Timings(
            prompt_n=min(sequence.fed_tokens, sequence.prefill_tokens) - sequence.cached_tokens,
            prompt_ms=max(0.0, self._first_at - self._fed_at) * 1000,
            predicted_n=sequence.new_tokens,
            predicted_ms=(self._last_at - self._first_at) * 1000,
            cache_n=sequence.cached_tokens,
        )
