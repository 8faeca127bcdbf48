"""Follows a grammar through a text as llama.cpp does: as a set of stacks. Pure.

llama.cpp keeps every way in which a text can be read as a stack of its own, and looks at each for
every token of the vocabulary. A grammar that reads one text in many ways would let it compute for
ever, all sessions of the worker waiting: such a grammar is found out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter

from inference_worker.grammar.characters import Characters
from inference_worker.grammar.gbnf import Grammar, GrammarInvalid, Rule, Symbol

STACKS_MAX = 256
"""Ways to read one text. With so many, llama.cpp's look at a vocabulary takes half a second."""

STEPS_MAX = 300_000
"""Stacks to look at before a grammar counts as too large."""

WALK_CHARACTERS = 24
"""What a token may have, and a few more: what doubles with each is found well before."""

CHOICES_MAX = 4
"""Characters that are tried at each place of a walk."""

EMPTY = 0
"""The stack of whoever has read all that is asked for."""


class Matcher:
    """One grammar's stacks. Equal ones have one number; 0 is the empty one."""

    def __init__(self, grammar: Grammar) -> None:
        self._elements: list[Symbol | None] = []
        """All alternatives one after the other, each with None behind it."""
        self._starts: list[list[int]] = []
        self._stacks: list[tuple[int, int]] = [(-1, -1)]
        """Of each stack its top, an index of the elements, and the stack below."""
        self._numbers: dict[tuple[int, int], int] = {}
        self._steps = 0
        self._root = grammar.root
        self._recursive = _recursive(grammar)
        for rule in grammar.rules:
            self._starts.append([])
            for alternative in rule:
                self._starts[-1].append(len(self._elements))
                self._elements += [*alternative, None]

    def start(self, rule: int | None = None) -> frozenset[int]:
        """The stacks before any text, of the root or another rule. Raises GrammarInvalid."""
        starts = self._starts[self._root if rule is None else rule]
        return self._settled(self._pushed(start, EMPTY) for start in starts)

    def after(self, stacks: Iterable[int], code_point: int) -> frozenset[int]:
        """The stacks after one more character; none where it is refused. Raises GrammarInvalid."""
        followers = []
        for stack in stacks:
            top, below = self._stacks[stack]
            element = self._elements[top] if stack else None
            if isinstance(element, Characters) and code_point in element:
                followers.append(self._pushed(top + 1, below))
        return self._settled(followers)

    def after_text(self, text: str) -> frozenset[int]:
        """The stacks after a whole text; none where it is refused. Raises GrammarInvalid."""
        stacks = self.start()
        for character in text:
            if not stacks:
                break
            stacks = self.after(stacks, ord(character))
        return stacks

    def is_begun_by(self, text: str) -> bool:
        """Whether something begins with the text. Raises GrammarInvalid."""
        return bool(self.after_text(text))

    def symbols(self, stack: int) -> list[Symbol]:
        """All that is still to come, from the stack's top on."""
        found: list[Symbol] = []
        while stack:
            top, stack = self._stacks[stack]
            while (element := self._elements[top]) is not None:
                found.append(element)
                top += 1
        return found

    def check(self) -> None:
        """Raises GrammarInvalid where some text can be read in too many ways.

        It walks from every rule that can come within itself, always on to where most stacks are:
        not all texts, but what doubles does so in each.
        """
        for rule in range(len(self._starts)):
            self.start(rule)
        for rule in (self._root, *self._recursive):
            stacks = self.start(rule)
            for _ in range(WALK_CHARACTERS):
                nexts = [self.after(stacks, choice) for choice in self._choices(stacks)]
                stacks = max(nexts, key=len, default=frozenset())
                if not stacks:
                    break

    def expected(self, stacks: Iterable[int]) -> Iterator[Characters]:
        """What may come next, once for each stack that waits for it."""
        for stack in stacks:
            element = self._elements[self._stacks[stack][0]] if stack else None
            if isinstance(element, Characters):
                yield element

    def _choices(self, stacks: Iterable[int]) -> list[int]:
        """Some of the characters that may come next, first those that most stacks wait for."""
        votes: dict[int, int] = {}
        for characters in self.expected(stacks):
            one = characters.example
            if one is not None:
                votes[one] = votes.get(one, 0) + 1
        return sorted(votes, key=lambda one: (-votes[one], one))[:CHOICES_MAX]

    def _pushed(self, position: int, below: int) -> int:
        """A stack with one more element, or as it is where there is none at the position."""
        if self._elements[position] is None:
            return below
        key = (position, below)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._stacks)
            self._stacks.append(key)
        return number

    def _settled(self, stacks: Iterable[int]) -> frozenset[int]:
        """The stacks with a character on top, or empty, that these come to."""
        todo, seen, settled = list(stacks), set[int](), set[int]()
        while todo:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            self._steps += 1
            top, below = self._stacks[stack]
            element = self._elements[top] if stack else None
            if not isinstance(element, int):
                settled.add(stack)
                continue
            rest = self._pushed(top + 1, below)
            todo += [self._pushed(start, rest) for start in self._starts[element]]
        if len(settled) > STACKS_MAX or self._steps > STEPS_MAX:
            raise GrammarInvalid("it is too ambiguous, or too large")
        return frozenset(settled)


def _recursive(grammar: Grammar) -> list[int]:
    """The written rules on the way from one that can come within itself to such a one."""
    uses = {number: _uses(number, rule) for number, rule in enumerate(grammar.rules)}
    used: dict[int, set[int]] = {number: set() for number in uses}
    for number, others in uses.items():
        for other in others:
            used[other].add(number)
    both = _left_by_sorting(uses) & _left_by_sorting(used)
    return [number for number in grammar.written if number in both]


def _uses(number: int, rule: Rule) -> set[int]:
    """The rules within one; that it ends with itself is a loop, which adds nothing to a stack."""
    return {
        symbol
        for alternative in rule
        for symbol in (alternative[:-1] if alternative[-1:] == [number] else alternative)
        if isinstance(symbol, int)
    }


def _left_by_sorting(graph: Mapping[int, set[int]]) -> set[int]:
    """The nodes that are on a cycle, or come after one."""
    sorter = TopologicalSorter(graph)
    left = set(graph)
    with suppress(CycleError):
        sorter.prepare()
    while ready := sorter.get_ready():
        left.difference_update(ready)
        sorter.done(*ready)
    return left
