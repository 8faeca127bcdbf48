"""From token pieces to text that may be shown: UTF-8 and stop strings.

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
    same character; the text ends before it. Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = _Decoder("replace")
        self._held = ""
        self.stopping_word = ""
        """The stop string that came up; empty while none did."""

    def feed(self, piece: bytes) -> str:
        """Takes the next piece and returns what may be shown now; nothing after a stop string."""
        return self._show(self._decoder.decode(piece))

    def finish(self) -> str:
        """Returns what is still held: no stop string can be completed any more."""
        shown = self._show(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return shown + held

    def _show(self, text: str) -> str:
        if self.stopping_word:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        hits = [(text.index(stop) + len(stop), stop) for stop in self._stops if stop in text]
        if hits:
            end, self.stopping_word = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            self._held = ""
            return text[: end - len(self.stopping_word)]
        shown = len(text) - held_length(text, self._stops)
        self._held = text[shown:]
        return text[:shown]


def held_length(text: str, wanted: Sequence[str]) -> int:
    """Length of the longest end of the text that begins one of the wanted strings."""
    longest = max((len(one) - 1 for one in wanted), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(one.startswith(end) for one in wanted):
            return length
    return 0
