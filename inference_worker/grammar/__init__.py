"""What constrains an answer: grammars in GBNF, and JSON Schemas made into them. Pure.

All that a client asks for passes here, in *prepare*, before llama.cpp sees it: ``gbnf`` says what
llama.cpp must not get. The record keeps the GBNF, so a worker that takes over has the very same.
"""

from __future__ import annotations

import json
from typing import Any

from inference_worker.grammar.gbnf import GrammarInvalid, read
from inference_worker.grammar.json_schema import SchemaRules
from inference_worker.grammar.matcher import Matcher
from inference_worker.grammar.references import located
from inference_worker.grammar.remainder import Remainders
from inference_worker.grammar.rules import GrammarRules, literal
from replay.request import Constraint

__all__ = [
    "GrammarInvalid",
    "GrammarRules",
    "Remainders",
    "checked",
    "compiled",
    "literal",
    "located",
    "schema_rule",
]

SCHEMA_CHARACTERS_MAX = 256 * 1024


def compiled(constraint: Constraint) -> str:
    """The GBNF that a client asks for. Raises GrammarInvalid."""
    if constraint.kind == "grammar":
        try:
            return checked(constraint.text)
        except GrammarInvalid as error:
            message = f"Failed to initialize samplers: failed to parse grammar ({error})"
            raise GrammarInvalid(message) from None
    if len(constraint.text) > SCHEMA_CHARACTERS_MAX:
        raise GrammarInvalid(f"longer than {SCHEMA_CHARACTERS_MAX} characters")
    rules = GrammarRules()
    root = rules.reserve("root")
    rules.put(root, schema_rule(rules, json.loads(constraint.text)))
    return checked(rules.text())


def schema_rule(rules: GrammarRules, schema: Any, *, document: Any = None) -> str:
    """The name of a rule of all that a JSON Schema allows, which may be a part of a ``document``.
    Raises GrammarInvalid."""
    if document is None:
        schema = document = located(schema)
    return SchemaRules(rules, document).root(schema)


def checked(grammar: str) -> str:
    """The same GBNF, where it may come to llama.cpp. Raises GrammarInvalid."""
    rules = read(grammar)
    if not rules.is_finite:
        raise GrammarInvalid("no finite answer satisfies it")
    Matcher(rules).check()
    return grammar
