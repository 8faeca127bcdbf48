"""What a grammar still asks for behind a text that is given: another grammar. Pure."""

from __future__ import annotations

from inference_worker.grammar.characters import Characters
from inference_worker.grammar.gbnf import Grammar, Symbol, read
from inference_worker.grammar.matcher import Matcher
from inference_worker.grammar.rules import character_class


class Remainders:
    """Of one grammar that ``GrammarRules`` made: its root comes first, and nothing refers to it."""

    def __init__(self, text: str) -> None:
        """Raises GrammarInvalid."""
        self._rules = text.partition("\n")[2]
        self._grammar = read(text)
        self._matcher = Matcher(self._grammar)

    def behind(self, begun: str) -> str | None:
        """GBNF of what may follow; None where nothing that is allowed begins so. Raises
        GrammarInvalid."""
        stacks = self._matcher.after_text(begun)
        if not stacks:
            return None
        ways = [self._matcher.symbols(stack) for stack in sorted(stacks)]
        rules = {"root": ways, **_unnamed(self._grammar, ways)}
        return self._written(rules) + self._rules

    def _written(self, rules: dict[str, list[list[Symbol]]]) -> str:
        texts = {name: " | ".join(map(self._sequence, ways)) for name, ways in rules.items()}
        return "".join(f"{name} ::= {text}\n" for name, text in texts.items())

    def _sequence(self, symbols: list[Symbol]) -> str:
        return " ".join(map(self._symbol, symbols)) or '""'

    def _symbol(self, symbol: Symbol) -> str:
        if isinstance(symbol, Characters):
            return character_class(symbol.ranges)
        return self._grammar.names[symbol] or _name(symbol)


def _unnamed(grammar: Grammar, ways: list[list[Symbol]]) -> dict[str, list[list[Symbol]]]:
    """The groups and repetitions that these ways lead to, of which the text has no names."""
    found: dict[str, list[list[Symbol]]] = {}
    todo = [ways]
    while todo:
        for symbol in (one for way in todo.pop() for one in way if isinstance(one, int)):
            if not grammar.names[symbol] and _name(symbol) not in found:
                found[_name(symbol)] = [list(way) for way in grammar.rules[symbol]]
                todo.append(found[_name(symbol)])
    return found


def _name(number: int) -> str:
    """As ``GrammarRules`` names none: with a hyphen at the end."""
    return f"rest-{number}-"
