"""From token pieces to text that may be shown: UTF-8, stop strings, indentation.

Pure, and a function of the pieces alone however they are cut, because a takeover replays it. It
must not know tokens, engines or dialects.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_Decoder = codecs.getincrementaldecoder("utf-8")


class TextAssembler:
    """Joins token pieces into text that will never have to be taken back.

    It holds back an incomplete code point and whatever could be the beginning of a stop string.
    The stop string that is *completed* first wins, and the longest of several completed by the
    same character; the text ends before it. With ``indent`` it also ends where a line that is not
    the first has less than so many blanks or tabs before it goes on. Bytes that are not UTF-8
    become U+FFFD.
    """

    def __init__(self, stops: Sequence[str] = (), *, indent: int = 0) -> None:
        self._lines = _Lines(indent)
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = _Decoder("replace")
        self._held = ""
        self.stopping_word = ""
        """The stop string that came up; empty while none did."""
        self.is_dedented = False
        """Whether a line came up that is not indented enough."""

    def feed(self, piece: bytes) -> str:
        """Takes the next piece and returns what may be shown now; nothing after a stop string."""
        return self._show(self._decoder.decode(piece))

    def finish(self) -> str:
        """Returns what is still held: no stop string can be completed any more."""
        shown = self._show(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return shown + held

    def _show(self, text: str) -> str:
        if self.stopping_word or self.is_dedented:
            return ""
        dedent = self._lines.dedent(text)
        if not self._stops and dedent is None:
            return text
        held, text = len(self._held), self._held + text
        # A stop string that the same character completes is what ends the text.
        seen = text if dedent is None else text[: held + dedent + 1]
        hits = [(seen.index(stop) + len(stop), stop) for stop in self._stops if stop in seen]
        if hits:
            end, self.stopping_word = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            self._held = ""
            return text[: end - len(self.stopping_word)]
        if dedent is not None:
            self._held, self.is_dedented = "", True
            return text[: held + dedent]
        shown = len(text) - held_length(text, self._stops)
        self._held = text[shown:]
        return text[:shown]


class _Lines:
    """Looks at how far the lines of a text are indented, the first one aside."""

    def __init__(self, indent: int) -> None:
        self._indent = indent
        self._blanks: int | None = None
        """At the beginning of a line, how many it has so far."""

    def dedent(self, text: str) -> int | None:
        """Takes more of the text; where in it a line goes on that is not indented enough."""
        if not self._indent:
            return None
        for place, character in enumerate(text):
            if self._blanks is not None and character in " \t":
                self._blanks += 1
                continue
            if self._blanks is not None and self._blanks < self._indent:
                return place
            self._blanks = 0 if character == "\n" else None
        return None


def held_length(text: str, wanted: Sequence[str]) -> int:
    """Length of the longest end of the text that begins one of the wanted strings."""
    longest = max((len(one) - 1 for one in wanted), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(one.startswith(end) for one in wanted):
            return length
    return 0


def common_beginning(one: str, other: str) -> str:
    """All that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    place = next((place for place, (left, right) in pairs if left != right), None)
    return one[: min(len(one), len(other)) if place is None else place]
