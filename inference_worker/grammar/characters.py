"""A class of characters, as GBNF has them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
"""No text has them."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of these ranges (both ends are in), or of all others."""

    ranges: tuple[tuple[int, int], ...]
    is_negated: bool = False

    def __contains__(self, code_point: int) -> bool:
        found = any(low <= code_point <= high for low, high in self.ranges)
        return found != self.is_negated

    @property
    def example(self) -> int | None:
        """One of them, if need be a control character; None where there is none."""
        taken = sorted([*self.ranges, _SURROGATES]) if self.is_negated else [_SURROGATES]
        for low, high in [(ord(" "), _LAST), (0, _LAST)] if self.is_negated else self.ranges:
            for first, last in taken:
                low = last + 1 if first <= low <= last else low
            if low <= min(high, _LAST):
                return low
        return None
