"""How likely tokens were, out of a row of logits. numpy alone.

Asked at each token, while all other answers wait: to sort or to partition a whole vocabulary would
take ten times as long and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

COLUMNS = 512
"""Into how many a row is dealt out to find a bound for the greatest."""

LIKELIEST_MAX = COLUMNS
"""More of them take a whole sort."""

EXPONENT_MAX = 600.0
"""Where the greatest logit is within it, sums of exponentials neither overflow nor vanish."""

_NONE = np.arange(0)


class Likelihoods:
    """Of rows of up to ``size`` logits. For one thread."""

    def __init__(self, size: int) -> None:
        # Kept, since the kernel clears fresh memory of this size page by page: that takes longer
        # than what is computed in it.
        self._room = np.empty(size)

    def logarithms(self, logits: Any, places: Any) -> Any:
        """The natural logarithms of these places' probabilities."""
        room, greatest = self._room[: len(logits)], float(logits.max())
        told = logits[places].astype(np.float64)
        if abs(greatest) > EXPONENT_MAX:
            told -= greatest
            logits = np.subtract(logits, greatest, out=room, dtype=np.float64)
        np.exp(logits, out=room, dtype=np.float64)
        return told - np.log(room.sum())


def likeliest(logits: Any, count: int) -> Any:
    """The places of the greatest, in their order; equal ones by place."""
    if not count:
        return _NONE
    places = np.flatnonzero(logits >= _bound(logits, count))
    return places[np.argsort(-logits[places], kind="stable")[:count]]


def are_falling(values: Any, count: int) -> bool:
    """Whether these are so many, each less than the one before it."""
    return len(values) == count and bool((values[1:] < values[:-1]).all())


def _bound(logits: Any, count: int) -> Any:
    """None of the ``count`` greatest is below it, and seldom many others are above: so many
    columns' greatest are as great."""
    if not count <= LIKELIEST_MAX <= len(logits):
        return -np.inf
    dealt = logits[: len(logits) // COLUMNS * COLUMNS].reshape(-1, COLUMNS)
    return np.partition(dealt.max(axis=0), -count)[-count]
