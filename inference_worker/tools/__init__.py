"""Calls of tools: which syntax a template's model has, how its calls are read and made. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from inference_worker.answer import AnswerParser
from inference_worker.tools.constraint import AnswerGrammar, call_grammar, thought_before
from inference_worker.tools.reading import CallParser, Output
from inference_worker.tools.syntaxes import BY_NAME, GENERIC, SYNTAXES, Syntax, syntax_of
from inference_worker.tools.writing import Tool, name_of, parameters_of

__all__ = [
    "GENERIC",
    "SYNTAXES",
    "AnswerGrammar",
    "Syntax",
    "call_grammar",
    "parser_of_calls",
    "syntax_of",
    "thought_before",
]


def parser_of_calls(name: str, tools: Sequence[Tool], *, id_seed: str) -> AnswerParser:
    """The parser of the syntax with this name; only these tools can be called."""
    syntax = BY_NAME[name]
    schemas = {name_of(tool): parameters_of(tool) for tool in tools}
    output = Output(schemas, id_seed=id_seed, id_characters=syntax.id_characters)
    return CallParser(output, syntax.read)
