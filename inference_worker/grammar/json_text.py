"""GBNF for what JSON is made of: strings, numbers within bounds, spaces. Pure.

Whatever it describes, a strict reader takes: no control characters, no half surrogate pairs, no
numbers that overflow.
"""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from inference_worker.grammar.gbnf import GrammarInvalid
from inference_worker.grammar.rules import (
    GrammarRules,
    Ranges,
    character_class,
    literal,
    one_text_of,
    union,
    without,
)

UNBOUNDED_DIGITS = 15
"""What a double keeps of any decimal number."""

FRACTION_DIGITS = 6
BOUND_DIGITS_MAX = 30
"""Before or behind the point of a number's bound."""

EVERYTHING: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
"""All code points but surrogates, which UTF-8 does not have."""

_CONTROLS: Ranges = ((0, 0x1F),)
_MUST_BE_ESCAPED: Ranges = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
_SHORT_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}
_HEX = "[0-9a-fA-F]"
_ESCAPE = (
    r'"\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] HEX HEX HEX | [dD] [0-7] HEX HEX'
    r' | [dD] [89abAB] HEX HEX "\\u" [dD] [c-fC-F] HEX HEX))'
).replace("HEX", _HEX)


def space(rules: GrammarRules) -> str:
    """Between JSON's tokens: a model that likes them must not go on with them for ever."""
    return rules.define("space", r'"" | " " | "\n" [ \t]{0,20}')


def written(rules: GrammarRules, *values: Any) -> str:
    """One of some values as JSON, as GBNF."""
    return one_text_of(rules, [json.dumps(value, ensure_ascii=False) for value in values])


def character(rules: GrammarRules) -> str:
    """Any character of a string."""
    raw = character_class(without(EVERYTHING, _MUST_BE_ESCAPED))
    return rules.define("char", f"{raw} | {_ESCAPE}")


def one_of(ranges: Ranges) -> str:
    """One character of a string that is in the ranges. Raises GrammarInvalid where none is."""
    ranges = without(ranges, ((0xD800, 0xDFFF),))
    raw = without(ranges, _MUST_BE_ESCAPED)
    ways = [character_class(raw)] if raw else []
    ways += [literal(escape) for one, escape in _SHORT_ESCAPES.items() if _has(ranges, ord(one))]
    if not ways:  # control characters without a short name
        ways = [literal(f"\\u{low:04x}") for low, _ in ranges[:1]]
    if not ways:
        raise GrammarInvalid("a class of no characters")
    return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})"


def _has(ranges: Ranges, code_point: int) -> bool:
    return any(low <= code_point <= high for low, high in ranges)


def string(rules: GrammarRules, low: int = 0, high: int | None = None) -> str:
    """A string of so many characters."""
    characters = rules.repeated(character(rules), low, high)
    return rules.define("string", rf'"\"" {characters} "\""')


def other_key(rules: GrammarRules, names: frozenset[str]) -> str:
    """The key of a property that is none of these."""
    if not names:
        return string(rules)
    # Without escapes: with them a name has more than one spelling.
    raw = without(EVERYTHING, _MUST_BE_ESCAPED)
    rest = rules.define("key-char", character_class(raw))
    return rules.define("other-key", rf'"\"" {_not_of(rules, names, raw, rest)} "\""')


def _not_of(rules: GrammarRules, endings: frozenset[str], raw: Ranges, rest: str) -> str:
    """The rest of a text that is none of these endings."""
    if not endings:
        return f"{rest}*"
    firsts = sorted({ending[0] for ending in endings if ending})
    other = without(raw, union((ord(first), ord(first)) for first in firsts))
    ways = [f"{character_class(other)} {rest}*"]
    for first in firsts:
        below = frozenset(ending[1:] for ending in endings if ending.startswith(first))
        if _has(raw, ord(first)):
            ways.append(f"{literal(first)} {_not_of(rules, below, raw, rest)}")
    if "" not in endings:
        ways.append('""')
    return rules.define("other", " | ".join(ways))


def integer(
    rules: GrammarRules, low: Decimal | None, high: Decimal | None, *, exclusive: tuple[bool, bool]
) -> str:
    """An integer within bounds. Raises GrammarInvalid where there is none."""
    if low is None and high is None:
        return rules.define("integer", f'"0" | "-"? [1-9] [0-9]{{0,{UNBOUNDED_DIGITS - 1}}}')
    return rules.define("integer", _within(low, high, exclusive, digits=0))


def number(
    rules: GrammarRules, low: Decimal | None, high: Decimal | None, *, exclusive: tuple[bool, bool]
) -> str:
    """A number within bounds. Raises GrammarInvalid where there is none."""
    if low is None and high is None:
        whole = f'"-"? ("0" | [1-9] [0-9]{{0,{UNBOUNDED_DIGITS - 1}}})'
        fraction = f'("." [0-9]{{1,{UNBOUNDED_DIGITS}}})?'
        return rules.define("number", f'{whole} {fraction} ([eE] [-+]? ("0" | [1-9] [0-9]?))?')
    digits = max(
        FRACTION_DIGITS, *(_fraction_digits(one) for one in (low, high) if one is not None)
    )
    return rules.define("number", _within(low, high, exclusive, digits=digits))


def _fraction_digits(bound: Decimal) -> int:
    exponent = bound.normalize().as_tuple().exponent
    assert isinstance(exponent, int), bound
    if -exponent > BOUND_DIGITS_MAX or bound.adjusted() >= BOUND_DIGITS_MAX:
        raise GrammarInvalid(f"a bound of over {BOUND_DIGITS_MAX} digits")
    return max(0, -exponent)


def _within(
    low: Decimal | None, high: Decimal | None, exclusive: tuple[bool, bool], *, digits: int
) -> str:
    """Numbers with at most so many digits behind the point, between the bounds.

    They are counted in units of the last digit.
    """
    for bound in (low, high):
        if bound is not None:
            _fraction_digits(bound)
    far = 10 ** (UNBOUNDED_DIGITS + digits)
    least, most = -far, far
    if low is not None:
        least = _units(low, digits, ROUND_CEILING, +1 if exclusive[0] else 0)
        most = max(most, least + far)
    if high is not None:
        most = _units(high, digits, ROUND_FLOOR, -1 if exclusive[1] else 0)
        least = min(least, most - far) if low is None else least
    if least > most:
        raise GrammarInvalid("there is no number within its bounds")
    ways = []
    if most >= 0:
        ways.append(_between(max(0, least), most, digits))
    if least < 0:
        nearest = max(0 if digits else 1, -most)
        ways.append(f'"-" ({_between(nearest, -least, digits)})')
    return " | ".join(ways)


def _units(bound: Decimal, digits: int, rounding: str, step: int) -> int:
    scaled = bound.scaleb(digits)
    whole = int(scaled.to_integral_value(rounding=rounding))
    return whole + step if whole == scaled else whole


def _between(least: int, most: int, digits: int) -> str:
    """What is not negative, in units of the last digit."""
    scale = 10**digits
    (low, low_rest), (high, high_rest) = divmod(least, scale), divmod(most, scale)
    if not digits:
        return _wholes(low, high)
    zeros, nines = "0" * digits, "9" * digits
    from_, to = f"{low_rest:0{digits}}", f"{high_rest:0{digits}}"
    if low == high:
        return f'"{low}" {_fraction(from_, to)}'
    ways = [f'"{low}" {_fraction(from_, nines)}', f'"{high}" {_fraction(zeros, to)}']
    if low + 1 < high:
        ways.append(f"({_wholes(low + 1, high - 1)}) {_fraction(zeros, nines)}")
    return " | ".join(ways)


def _wholes(least: int, most: int) -> str:
    ways = []
    for length in range(len(str(least)), len(str(most)) + 1):
        low = max(least, 10 ** (length - 1) if length > 1 else 0)
        ways.append(_same_length(str(low), str(min(most, 10**length - 1))))
    return " | ".join(ways)


def _same_length(low: str, high: str) -> str:
    """All digits from one to the other, both of the same length."""
    count = len(low)
    if count == 1:
        return f"[{low}-{high}]"
    if low == "0" * count and high == "9" * count:
        return f"[0-9]{{{count}}}"
    if low[0] == high[0]:
        return f'"{low[0]}" ({_same_length(low[1:], high[1:])})'
    zeros, nines = "0" * (count - 1), "9" * (count - 1)
    ways = [
        f'"{low[0]}" ({_same_length(low[1:], nines)})',
        f'"{high[0]}" ({_same_length(zeros, high[1:])})',
    ]
    if int(low[0]) + 1 < int(high[0]):
        ways.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{count - 1}}}")
    return " | ".join(ways)


def _fraction(low: str, high: str) -> str:
    """What may stand behind a whole number: a point and digits between these, or nothing."""
    body = f'"." ({_digits(low, high)})'
    return f"({body})?" if int(low) == 0 else body


def _digits(low: str, high: str) -> str:
    """At least one digit, zeros understood behind the last one, from one to the other."""
    count = len(low)
    if int(low) == 0 and high == "9" * count:
        return f"[0-9]{{1,{count}}}"
    if count == 1:
        return f"[{low}-{high}]"
    zeros, nines = "0" * (count - 1), "9" * (count - 1)
    if low[0] == high[0]:
        return _then(low[0], low[1:], high[1:])
    ways = [_then(low[0], low[1:], nines), _then(high[0], zeros, high[1:])]
    if int(low[0]) + 1 < int(high[0]):
        ways.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{0,{count - 1}}}")
    return " | ".join(ways)


def _then(digit: str, low: str, high: str) -> str:
    more = f"({_digits(low, high)})"
    return f'"{digit}" {more}?' if int(low) == 0 else f'"{digit}" {more}'
