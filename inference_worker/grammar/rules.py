"""Writes GBNF: rules with names of their own, texts, classes of characters, repetitions. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from inference_worker.grammar.gbnf import GRAMMAR_CHARACTERS_MAX, GrammarInvalid
from inference_worker.text import common_beginning

REPEATED_MAX = 512
"""More repetitions are written as repetitions of blocks."""

BLOCK = 256

Ranges = tuple[tuple[int, int], ...]
"""Code points, both ends of each range among them; sorted, with gaps between."""

_NO_NAME = re.compile(r"[^a-zA-Z0-9]+")


class GrammarRules:
    """Rules that a grammar is put together from. Each body stands once, whatever asks for it."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self.endings: dict[str, str] = {}
        """By a text, the rule of whatever ends with it: it refers to itself, and so has no body
        that another could be found by."""
        self._characters = 0

    def define(self, hint: str, body: str) -> str:
        """The name of the rule with this body: like the hint, if it is new. Raises
        GrammarInvalid."""
        if body not in self._names:
            self.put(self.reserve(hint), body)
        return self._names[body]

    def reserve(self, hint: str) -> str:
        """A name that no other rule has; ``put`` must follow."""
        name = base = _NO_NAME.sub("-", hint).strip("-")[:40] or "rule"
        number = 1
        while name in self._bodies:
            number += 1
            name = f"{base}-{number}"
        self._bodies[name] = ""
        return name

    def put(self, name: str, body: str) -> None:
        """Gives a rule its body. Raises GrammarInvalid where the grammar becomes too long."""
        self._bodies[name] = body
        self._names.setdefault(body, name)
        self._characters += len(name) + len(body) + len(" ::= \n")
        if self._characters > GRAMMAR_CHARACTERS_MAX:
            raise GrammarInvalid(f"as a grammar longer than {GRAMMAR_CHARACTERS_MAX} characters")

    def text(self) -> str:
        """All of them, as llama.cpp reads them."""
        return "".join(f"{name} ::= {body}\n" for name, body in self._bodies.items())

    def repeated(self, rule: str, low: int, high: int | None) -> str:
        """The rule ``low`` to ``high`` times; None is without end."""
        if high is None:
            return f"{self._exactly(rule, low)} {rule}*" if low else f"{rule}*"
        return f"{self._exactly(rule, low)} {self._at_most(rule, high - low)}".strip() or '""'

    def _exactly(self, rule: str, count: int) -> str:
        if count <= REPEATED_MAX:
            return _times(rule, str(count)) if count else ""
        blocks, rest = divmod(count, BLOCK)
        return f"{self._exactly(self._block(rule), blocks)} {self._exactly(rule, rest)}".strip()

    def _at_most(self, rule: str, count: int) -> str:
        if count <= REPEATED_MAX:
            return _times(rule, f"0,{count}") if count else ""
        block = self._block(rule)
        blocks, rest = divmod(count, BLOCK)
        fewer = f"{self._at_most(block, blocks - 1)} {_times(rule, f'0,{BLOCK - 1}')}"
        most = f"{self._exactly(block, blocks)} {self._at_most(rule, rest)}".strip()
        return f"({fewer} | {most})"

    def _block(self, rule: str) -> str:
        return self.define(f"{rule}-block", _times(rule, str(BLOCK)))


def _times(rule: str, bounds: str) -> str:
    return f"{rule}{{{bounds}}}"


def literal(text: str) -> str:
    """GBNF for a text."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def one_text_of(rules: GrammarRules, texts: Iterable[str]) -> str:
    """GBNF for one of some texts."""
    return forked(rules, dict.fromkeys(texts, ""))


def forked(rules: GrammarRules, ways: Mapping[str, str]) -> str:
    """GBNF for one of some texts, each with what follows it: what several begin with stands once,
    since each way to read an answer is followed."""
    by_first: dict[str, dict[str, str]] = {}
    for text, follow in ways.items():
        by_first.setdefault(text[:1], {})[text] = follow
    found = []
    for group in by_first.values():
        begin = common_beginning(min(group), max(group))
        rests = {text[len(begin) :]: follow for text, follow in group.items()}
        [rest, *others] = rests.values()
        if others:
            rest = rules.define("rest", forked(rules, rests))
        found.append(f"{literal(begin)} {rest}".rstrip())
    return " | ".join(found)


def character_class(ranges: Ranges) -> str:
    """GBNF for one character of these, of which there must be some."""
    parts = (
        _in_class(low) if low == high else f"{_in_class(low)}-{_in_class(high)}"
        for low, high in ranges
    )
    return "[" + "".join(parts) + "]"


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """All that is in any of the ranges."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def without(ranges: Ranges, taken: Ranges) -> Ranges:
    """What is in the first and not in the second."""
    left = []
    for low, high in ranges:
        for begin, end in taken:
            if begin <= high and end >= low:
                if low < begin:
                    left.append((low, begin - 1))
                low = end + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else _in_class(ord(character))


def _in_class(code_point: int) -> str:
    character = chr(code_point)
    if character.isascii() and character.isalnum():
        return character
    return f"\\x{code_point:02x}" if code_point < 0x100 else f"\\U{code_point:08x}"
