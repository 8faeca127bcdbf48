"""GBNF, llama.cpp's notation for grammars: reading it, and refusing what llama.cpp must not get.

llama.cpp's own reader ends the process on groups nested deeply and on long chains of rules, and
never returns from some left recursions. So a grammar is read here first, by the same rules, into a
value that can be looked at; what passes compiles there too. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from inference_worker.grammar.characters import Characters

GRAMMAR_CHARACTERS_MAX = 256 * 1024
ELEMENTS_MAX = 64 * 1024
"""Of a grammar whose repetitions are written out."""

GROUPS_DEPTH_MAX = 64
LEFT_DEPTH_MAX = 4096
"""How many rules may begin with one another: llama.cpp recurses as deep."""

LEFT_PATHS_MAX = 1_000_000
"""In how many ways: llama.cpp walks each of them."""

REPETITIONS_MAX = 2000
"""llama.cpp's bound; it reads a larger one as none at all."""

_SPACES = " \t"
_NEWLINES = "\r\n"
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_MADE_UP = "_"
"""No written name has it."""

_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


class GrammarInvalid(ValueError):
    """No answer can be constrained by this; the message says why, for whoever wrote it."""


Symbol = int | Characters
"""The number of a rule, or a character."""

Rule = Sequence[Sequence[Symbol]]
"""Alternatives."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """Rules by number; an answer is what ``root`` derives. ``written`` are those that stand in the
    text, groups among them; the others are of its repetitions. Of both ``names`` has "" only."""

    rules: Sequence[Rule]
    root: int
    written: Sequence[int]
    names: Sequence[str]

    @property
    def is_finite(self) -> bool:
        """Whether any text at all satisfies it."""
        return self.root in _derivable(self.rules, with_characters=True)


def read(text: str) -> Grammar:
    """The grammar that a text stands for. Raises GrammarInvalid."""
    if len(text) > GRAMMAR_CHARACTERS_MAX:
        raise GrammarInvalid(f"longer than {GRAMMAR_CHARACTERS_MAX} characters")
    if "\0" in text:
        raise GrammarInvalid("a character that is none")
    reader = _Reader(text)
    reader.read()
    names, rules = reader.names, reader.rules
    for name, number in names.items():
        if number not in rules:
            raise GrammarInvalid(f"the rule {name!r} is not defined")
    if "root" not in names:
        raise GrammarInvalid("there is no rule 'root'")
    written = [number for number in rules if number not in reader.repetitions]
    told = ["" if _MADE_UP in name else name for name in names]
    grammar = Grammar([rules[number] for number in range(len(names))], names["root"], written, told)
    _check_left(grammar.rules)
    return grammar


class _Reader:
    """Reads one text, from ``at`` on."""

    def __init__(self, text: str) -> None:
        self.names: dict[str, int] = {}
        self.rules: dict[int, list[list[Symbol]]] = {}
        self.repetitions: set[int] = set()
        self._text = text
        self._at = 0
        self._elements = 0
        self._depth = 0

    def read(self) -> None:
        self._skip(newlines=True)
        while self._next:
            self._rule()

    def _rule(self) -> None:
        name = self._name()
        self._skip(newlines=False)
        number = self._number(name)
        if not self._text.startswith("::=", self._at):
            raise self._expected("::=")
        self._at += 3
        self._skip(newlines=True)
        self.rules[number] = self._alternatives(name)
        if self._next and self._next not in _NEWLINES:
            raise self._expected("a new line")
        self._skip(newlines=True)

    def _alternatives(self, name: str) -> list[list[Symbol]]:
        alternatives = [self._sequence(name)]
        while self._next == "|":
            self._at += 1
            self._skip(newlines=True)
            alternatives.append(self._sequence(name))
        return alternatives

    def _sequence(self, name: str) -> list[Symbol]:
        symbols: list[Symbol] = []
        item = 0
        """Where the last item begins in the symbols: what a repetition repeats."""
        weight = 1
        """How many rules it has made, as llama.cpp counts them."""
        while self._next:
            if (bounds := self._repetition()) is not None:
                low, high = bounds
                symbols[item:], made = self._repeated(name, symbols[item:], low, high, weight)
                weight *= made
                continue
            before = len(self.names)
            found = self._item(name)
            if found is None:
                break
            weight = max(1, len(self.names) - before) if found.is_group else 1
            item = len(symbols)
            symbols += found.symbols
            self._count(len(found.symbols))
        return symbols

    def _item(self, name: str) -> _Item | None:
        """The next item, or None where none begins."""
        if self._next == '"':
            item = _Item(self._literal())
        elif self._next == "[":
            item = _Item(self._class())
        elif self._next == ".":
            self._at += 1
            item = _Item([Characters((), is_negated=True)])
        elif self._next in _NAME:
            item = _Item([self._number(self._name())])
        elif self._next == "(":
            item = _Item([self._group(name)], is_group=True)
        elif self._next in "<!":
            raise GrammarInvalid("tokens cannot be named in a grammar here")
        else:
            return None
        self._skip(newlines=self._depth > 0)
        return item

    def _group(self, name: str) -> int:
        self._depth += 1
        if self._depth > GROUPS_DEPTH_MAX:
            raise GrammarInvalid(f"over {GROUPS_DEPTH_MAX} groups in one another")
        self._at += 1
        self._skip(newlines=True)
        number = self._made_up(name)
        self.rules[number] = self._alternatives(name)
        if self._next != ")":
            raise self._expected(")")
        self._at += 1
        self._depth -= 1
        return number

    def _literal(self) -> list[Symbol]:
        self._at += 1
        symbols: list[Symbol] = []
        while self._next != '"':
            character = self._character()
            symbols.append(Characters(((character, character),)))
        self._at += 1
        return symbols

    def _class(self) -> list[Symbol]:
        self._at += 1
        is_negated = self._next == "^"
        self._at += is_negated
        ranges = []
        while self._next != "]":
            low = high = self._character()
            if self._next == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._character()
            ranges.append((low, high))
        self._at += 1
        return [Characters(tuple(ranges), is_negated)] if ranges else []

    def _character(self) -> int:
        if not self._next:
            raise GrammarInvalid("it ends within a text or a class of characters")
        character = self._next
        self._at += 1
        if character != "\\":
            return ord(character)
        kind = self._next
        self._at += 1
        if kind in _ESCAPES:
            return ord(_ESCAPES[kind])
        digits = self._text[self._at : self._at + _HEX_DIGITS.get(kind, 0)]
        if not digits or len(digits) != _HEX_DIGITS[kind] or not _is_hex(digits):
            raise GrammarInvalid(f"an unknown escape, \\{kind}{digits}")
        self._at += len(digits)
        return int(digits, 16)

    def _repetition(self) -> tuple[int, int | None] | None:
        """How often the last item may come, where that is said; None is without end."""
        nested = self._depth > 0
        if self._next in ("*", "+", "?"):
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self._next]
            self._at += 1
            self._skip(newlines=nested)
            return bounds
        if self._next != "{":
            return None
        self._at += 1
        self._skip(newlines=nested)
        low = high = self._integer()
        self._skip(newlines=nested)
        most: int | None = high
        if self._next == ",":
            self._at += 1
            self._skip(newlines=nested)
            most = self._integer() if self._next.isdigit() else None
            self._skip(newlines=nested)
        if self._next != "}":
            raise self._expected("}")
        self._at += 1
        self._skip(newlines=nested)
        if most is not None and most < low:
            raise GrammarInvalid(f"a repetition from {low} to {most} times")
        return low, most

    def _repeated(
        self, name: str, item: list[Symbol], low: int, high: int | None, weight: int
    ) -> tuple[list[Symbol], int]:
        """The item as often as it may come, written out, and how many rules llama.cpp counts."""
        if not item:
            raise GrammarInvalid("a repetition of nothing")
        made = high or low or 1
        if weight * made >= REPETITIONS_MAX:
            raise GrammarInvalid(
                f"{REPETITIONS_MAX} repetitions or more; within groups they multiply"
            )
        symbols = item * low
        optional = 1 if high is None else high - low
        self._count(len(item) * (low + optional))
        last: int | None = None
        for _ in range(optional):
            number = self._made_up(name)
            self.repetitions.add(number)
            follow = number if high is None else last
            again = item if follow is None else [*item, follow]
            self.rules[number] = [again, []]
            last = number
        return symbols if last is None else [*symbols, last], made

    def _made_up(self, name: str) -> int:
        return self._number(f"{name}{_MADE_UP}{len(self.names)}")

    def _number(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > ELEMENTS_MAX:
            raise GrammarInvalid(f"over {ELEMENTS_MAX} elements, its repetitions written out")

    def _name(self) -> str:
        start = self._at
        while self._next and self._next in _NAME:
            self._at += 1
        if start == self._at:
            raise self._expected("a name")
        return self._text[start : self._at]

    def _integer(self) -> int:
        start = self._at
        while self._next and self._next in "0123456789":
            self._at += 1
        if start == self._at:
            raise self._expected("a number")
        return int(self._text[start : self._at][:9])

    def _skip(self, *, newlines: bool) -> None:
        """Over spaces and comments."""
        while self._next and (
            self._next in _SPACES + "#" or (newlines and self._next in _NEWLINES)
        ):
            if self._next == "#":
                while self._next and self._next not in _NEWLINES:
                    self._at += 1
            else:
                self._at += 1

    @property
    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _expected(self, what: str) -> GrammarInvalid:
        line = self._text.count("\n", 0, self._at) + 1
        found = self._text[self._at : self._at + 20].split("\n")[0] or "its end"
        return GrammarInvalid(f"line {line}: expected {what} before {found!r}")


@dataclass(frozen=True, slots=True)
class _Item:
    symbols: list[Symbol]
    is_group: bool = False


def _is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)


def _check_left(rules: Sequence[Rule]) -> None:
    """Refuses what begins with itself, and what begins with too much."""
    empty = _derivable(rules, with_characters=False)
    begins = {number: _begins(rule, empty) for number, rule in enumerate(rules)}
    try:
        order = tuple(TopologicalSorter(begins).static_order())
    except CycleError:
        raise GrammarInvalid(
            "a rule begins with itself (left recursion), or what may be empty is repeated"
        ) from None
    depth: dict[int, int] = {}
    paths: dict[int, int] = {}
    for number in order:  # what a rule begins with comes before it
        depth[number] = 1 + max((depth[first] for first in begins[number]), default=0)
        paths[number] = min(LEFT_PATHS_MAX + 1, 1 + sum(paths[first] for first in begins[number]))
    if max(depth.values()) > LEFT_DEPTH_MAX:
        raise GrammarInvalid(f"over {LEFT_DEPTH_MAX} rules begin with one another")
    if max(paths.values()) > LEFT_PATHS_MAX:
        raise GrammarInvalid("its rules begin with one another in too many ways")


def _begins(rule: Rule, empty: frozenset[int]) -> list[int]:
    """The rules that may stand at its beginning, as often as they do."""
    found = []
    for alternative in rule:
        for symbol in alternative:
            if isinstance(symbol, Characters):
                break
            found.append(symbol)
            if symbol not in empty:
                break
    return found


def _derivable(rules: Sequence[Rule], *, with_characters: bool) -> frozenset[int]:
    """The rules that derive some finite text, or only those that derive the empty one."""
    waits: dict[int, list[list[int]]] = {}
    """For each rule the alternatives it stands in: [their rule, how many symbols they wait for]."""
    ready: deque[int] = deque()
    for number, rule in enumerate(rules):
        for alternative in rule:
            numbers = [symbol for symbol in alternative if isinstance(symbol, int)]
            classes = [symbol for symbol in alternative if isinstance(symbol, Characters)]
            if any(not with_characters or one.example is None for one in classes):
                continue
            waiting = [number, len(numbers)]
            for symbol in numbers:
                waits.setdefault(symbol, []).append(waiting)
            if not numbers:
                ready.append(number)
    derivable: set[int] = set()
    while ready:
        if (number := ready.popleft()) in derivable:
            continue
        derivable.add(number)
        for waiting in waits.get(number, ()):
            waiting[1] -= 1
            if waiting[1] == 0:
                ready.append(waiting[0])
    return frozenset(derivable)
