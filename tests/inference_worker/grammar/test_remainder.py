"""What a grammar asks for behind a beginning: just what makes a whole of it."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.grammar import GrammarRules, checked, schema_rule
from inference_worker.grammar.gbnf import read
from inference_worker.grammar.matcher import EMPTY, Matcher
from inference_worker.grammar.remainder import Remainders

from .written import text_of

TREE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 20},
        "size": {"type": "number", "minimum": -3.5},
        "root": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3},
    },
    "required": ["name"],
    "additionalProperties": {"type": "boolean"},
}


def grammar_of(schema: object) -> str:
    rules = GrammarRules()
    root = rules.reserve("root")
    rules.put(root, schema_rule(rules, schema))
    return checked(rules.text())


GRAMMAR = grammar_of(TREE)
REMAINDERS = Remainders(GRAMMAR)


def allows(grammar: str, text: str) -> bool:
    return EMPTY in Matcher(read(grammar)).after_text(text)


@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_what_goes_on_from_a_beginning_makes_it_whole(seed: int, share: float) -> None:
    random = Random(seed)
    text = text_of(GRAMMAR, random)
    if text is None:
        return
    begun = text[: round(len(text) * share)]
    rest = REMAINDERS.behind(begun)
    assert rest is not None and allows(checked(rest), text.removeprefix(begun))
    other = text_of(rest, random)
    assert other is None or allows(GRAMMAR, begun + other)


def test_behind_the_whole_comes_nothing() -> None:
    rest = REMAINDERS.behind('{"name": "ab"}')
    assert rest is not None and allows(rest, "") and not allows(rest, " ")


@pytest.mark.parametrize("begun", ["x", '{"name": 3', '{"name": "ab"} '])
def test_what_nothing_allowed_begins_with_has_no_rest(begun: str) -> None:
    assert REMAINDERS.behind(begun) is None
