"""Regular expressions of JSON Schema, as GBNF of the strings that they match. Pure.

Python's own parser reads them: what it and JavaScript write alike. Classes mean ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from re import _constants, _parser  # type: ignore[attr-defined]  # typeshed has no hint
from typing import Any

from inference_worker.grammar.gbnf import GrammarInvalid
from inference_worker.grammar.json_text import EVERYTHING, character, one_of
from inference_worker.grammar.rules import (
    GrammarRules,
    Ranges,
    character_class,
    union,
    without,
)

PATTERN_CHARACTERS_MAX = 2048

_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CATEGORIES: dict[Any, Ranges] = {
    _constants.CATEGORY_DIGIT: _DIGITS,
    _constants.CATEGORY_NOT_DIGIT: without(EVERYTHING, _DIGITS),
    _constants.CATEGORY_WORD: _WORD,
    _constants.CATEGORY_NOT_WORD: without(EVERYTHING, _WORD),
    _constants.CATEGORY_SPACE: _SPACE,
    _constants.CATEGORY_NOT_SPACE: without(EVERYTHING, _SPACE),
}
_BEGINS = (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING)
_ENDS = (_constants.AT_END, _constants.AT_END_STRING)

Spelled = Callable[[Ranges], str]
"""GBNF of one character of these."""

Items = Sequence[tuple[Any, Any]]
"""What the parser makes of a regular expression: operations, one after the other."""


class Pattern:
    """One regular expression, and how long the strings are that it matches."""

    def __init__(self, source: str) -> None:
        """Raises GrammarInvalid where it cannot be read."""
        if len(source) > PATTERN_CHARACTERS_MAX:
            raise GrammarInvalid(f"a pattern of over {PATTERN_CHARACTERS_MAX} characters")
        try:
            parsed = _parser.parse(source)
            self.shortest, self.longest = parsed.getwidth()
        except (re.error, RecursionError, OverflowError) as error:
            raise GrammarInvalid(f"the pattern cannot be read: {error}") from None
        if parsed.state.flags & ~re.UNICODE:
            raise GrammarInvalid("a pattern with flags")
        self._ways = [_anchored(items) for items in _top_level(list(parsed))]
        if not all(begins and ends for begins, _, ends in self._ways):
            self.longest = _constants.MAXREPEAT

    def string(self, rules: GrammarRules) -> str:
        """The strings that have it somewhere, within their quotes. Raises GrammarInvalid."""
        found = self._found(rules, one_of, character(rules))
        return rules.define("pattern", rf'"\"" ({found}) "\""')

    def text(self, rules: GrammarRules, never: str) -> str:
        """The texts that have it somewhere, of other characters than these. Raises GrammarInvalid
        where there is none."""
        taken = union((ord(one), ord(one)) for one in never)

        def spelled(ranges: Ranges) -> str:
            if not (left := without(ranges, taken)):
                raise GrammarInvalid(f"a pattern that needs one of {never!r}")
            return character_class(left)

        return rules.define("pattern", self._found(rules, spelled, spelled(EVERYTHING)))

    def _found(self, rules: GrammarRules, spelled: Spelled, anything: str) -> str:
        ways = []
        for begins, items, ends in self._ways:
            before = "" if begins else f"{anything}* "
            after = "" if ends else f" {anything}*"
            ways.append(f"{before}{_sequence(rules, items, spelled)}{after}")
        return " | ".join(ways)


def _top_level(items: list[Any]) -> list[list[Any]]:
    """The alternatives, each with what the parser has drawn out of them."""
    if items and items[-1][0] is _constants.BRANCH:
        return [[*items[:-1], *alternative] for alternative in items[-1][1][1]]
    return [items]


def _anchored(items: list[Any]) -> tuple[bool, list[Any], bool]:
    begins = bool(items) and items[0][0] is _constants.AT and items[0][1] in _BEGINS
    items = items[begins:]
    ends = bool(items) and items[-1][0] is _constants.AT and items[-1][1] in _ENDS
    return begins, items[: len(items) - ends], ends


def _sequence(rules: GrammarRules, items: Items, spelled: Spelled) -> str:
    return " ".join(_item(rules, *item, spelled) for item in items) or '""'


def _item(rules: GrammarRules, operation: Any, argument: Any, spelled: Spelled) -> str:
    match operation:
        case _constants.LITERAL | _constants.NOT_LITERAL | _constants.ANY | _constants.IN:
            return spelled(_ranges(operation, argument))
        case _constants.BRANCH:
            return f"({' | '.join(_sequence(rules, one, spelled) for one in argument[1])})"
        case _constants.SUBPATTERN if not argument[1] and not argument[2]:
            return f"({_sequence(rules, argument[3], spelled)})"
        case _constants.MAX_REPEAT | _constants.MIN_REPEAT:
            low, high, body = argument
            repeated = rules.define("repeated", _sequence(rules, body, spelled))
            most = None if high == _constants.MAXREPEAT else high
            return rules.repeated(repeated, low, most)
    raise GrammarInvalid(f"a pattern with {str(operation).lower()} within it")


def _ranges(operation: Any, argument: Any) -> Ranges:
    match operation:
        case _constants.LITERAL:
            return ((argument, argument),)
        case _constants.NOT_LITERAL:
            return without(EVERYTHING, ((argument, argument),))
        case _constants.ANY:
            return without(EVERYTHING, _LINE_ENDS)
        case _constants.RANGE:
            return (argument,)
        case _constants.CATEGORY:
            return _CATEGORIES[argument]
    parts = [part for part in argument if part[0] is not _constants.NEGATE]
    found = union(one for part in parts for one in _ranges(*part))
    return found if len(parts) == len(argument) else without(EVERYTHING, found)
