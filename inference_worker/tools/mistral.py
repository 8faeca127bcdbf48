"""Mistral: ``[TOOL_CALLS][{"name": ..., "arguments": ...}]``, or ``[TOOL_CALLS]name[ARGS]{...}``.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference_worker.grammar import GrammarRules, literal
from inference_worker.grammar.rules import forked
from inference_worker.tools.reading import (
    Output,
    Reading,
    calls,
    content_until,
    refused,
    value,
    visible,
)
from inference_worker.tools.writing import Tool, arguments, call_object, listed, name_of

TAG = "[TOOL_CALLS]"
ARGUMENTS_TAG, ID_TAG = "[ARGS]", "[CALL_ID]"
ID_CHARACTERS = 9
"""Mistral's templates take no other ids back."""


def read(output: Output) -> Reading[None]:
    """Content, then calls in either form."""
    while True:
        yield from content_until(output, TAG)
        character = yield from visible()
        if character == "[":
            yield from calls(output)
        else:
            yield from _named(output, character)


def _named(output: Output, character: str) -> Reading[None]:
    """A call whose name comes first, perhaps with an id of the model's own."""
    head = character
    while not head.endswith("{"):
        name, bracket, _ = head.partition("[")
        if not bracket and not any(one.startswith(name) for one in output.tools):
            return refused(output)
        head += yield
    name = head.removesuffix("{").partition("[")[0].strip()
    if name not in output.tools:
        return refused(output)
    output.begin(name)
    yield from value("{", output.argument)
    output.end()


def write_list(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of one to ``most`` calls as objects. Raises GrammarInvalid."""
    call = call_object(rules, tools)
    return f'{literal(TAG)} " "? "[" {listed(rules, call, literal(", "), most)} "]"'


def write_named(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of one to ``most`` calls, their names first. Raises GrammarInvalid."""
    calls = {f"{TAG}{name_of(tool)}{ARGUMENTS_TAG}": arguments(rules, tool) for tool in tools}
    return listed(rules, rules.define("called", forked(rules, calls)), '""', most)
