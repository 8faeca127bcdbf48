"""Any model that was told to: ``{"tool_calls": [...]}`` or ``{"response": "..."}``. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from inference_worker.grammar import GrammarRules, literal
from inference_worker.grammar.json_text import string
from inference_worker.tools.reading import (
    Output,
    Reading,
    calls,
    refused,
    rest,
    text_value,
    value,
    visible,
)
from inference_worker.tools.writing import Tool, call_object, listed, member


def read(output: Output) -> Reading[None]:
    """The whole answer; one that is not as the model was told is content."""
    match (yield from _member()):
        case ("tool_calls", "["):
            yield from calls(output)
        case ("response", '"'):
            output.held, output.is_certain = "", True
            yield from text_value(output.content)
            while True:
                yield  # the object's end
        case _:
            refused(output)
    if output.count:
        output.is_certain = True
        while True:
            yield
    yield from rest(output)


def _member() -> Reading[tuple[str, str] | None]:
    """An object's first key, and how its value begins."""
    if (yield from visible()) != "{" or (yield from visible()) != '"':
        return None
    key: list[str] = []
    yield from value('"', key.append)
    if (yield from visible()) != ":":
        return None
    try:
        name = json.loads("".join(key))
    except ValueError:
        return None
    return str(name), (yield from visible())


def write(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of an object with one to ``most`` calls. Raises GrammarInvalid."""
    call = call_object(rules, tools)
    several = listed(rules, call, literal(", "), most)
    return member(rules, "tool_calls", f'"[" {several} "]"')


def write_answer(rules: GrammarRules) -> str:
    """GBNF of an object with an answer to the user."""
    return member(rules, "response", string(rules))
