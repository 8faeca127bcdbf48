"""Follows the thought of one answer, and tells with which tokens it is to be ended early.

Pure, and a function of the tokens, of which of them were forced, and of the order to end it: an
attempt that goes on with an earlier one's tokens is where that one was.
"""

from __future__ import annotations

import codecs
from enum import Enum, auto

from inference_worker.engine import ThoughtLimit
from inference_worker.text import held_length

_Decoder = codecs.getincrementaldecoder("utf-8")


class _Part(Enum):
    START = auto()
    THOUGHT = auto()
    OVER = auto()


class ThoughtWatch:
    """Of one sequence. Owned by it."""

    def __init__(self, limit: ThoughtLimit) -> None:
        self.is_ordered = limit.is_over
        """Whether somebody wants the thought to end."""
        self._limit = limit
        self._part = _Part.THOUGHT if limit.is_open else _Part.START
        self._decoder = _Decoder("replace")
        self._seen = ""
        """What may be a part of a tag."""
        self._used_tokens = 0
        self._closed_tokens = 0

    @property
    def next_forced(self) -> int | None:
        """The token that the sequence must take next; None where it may sample."""
        is_due = self._part is _Part.THOUGHT and self._is_spent and self._may_be_cut
        return self._limit.closing[self._closed_tokens] if is_due else None

    def accept(self, piece: bytes, *, is_forced: bool) -> None:
        """Takes the sequence's next token."""
        if self._part is _Part.OVER:
            return
        if is_forced:
            self._closed_tokens += 1
            if self._closed_tokens == len(self._limit.closing):
                self._part = _Part.OVER
            return
        self._seen += self._decoder.decode(piece)
        if self._part is _Part.START:
            self._begin()
        else:
            self._think()

    @property
    def _is_spent(self) -> bool:
        return self.is_ordered or 0 <= self._limit.budget_tokens <= self._used_tokens

    @property
    def _may_be_cut(self) -> bool:
        """Not within a code point, nor where the model may be ending the thought by itself."""
        is_whole = not self._decoder.getstate()[0]
        return is_whole and not self._held

    @property
    def _held(self) -> int:
        return held_length(self._seen, (self._limit.end,))

    def _begin(self) -> None:
        begin, seen = self._limit.begin, self._seen.lstrip()
        if seen.startswith(begin):
            self._part, self._seen = _Part.THOUGHT, seen.removeprefix(begin)
        elif not begin.startswith(seen):
            self._part = _Part.OVER

    def _think(self) -> None:
        self._used_tokens += 1
        if self._limit.end in self._seen:
            self._part = _Part.OVER
        else:
            self._seen = self._seen[len(self._seen) - self._held :]
