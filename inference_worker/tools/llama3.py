"""Llama 3: an answer that is one JSON object, or what follows ``<|python_tag|>``. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from inference_worker.grammar import GrammarRules, literal
from inference_worker.tools.reading import (
    Output,
    Reading,
    call,
    content_until,
    refused,
    visible,
)
from inference_worker.tools.writing import Tool, call_object, listed, name_of

TAG = "<|python_tag|>"


def read(output: Output) -> Reading[None]:
    """Calls at the beginning or after the tag; several may stand after one another."""
    yield from _calls(output)
    while True:
        yield from content_until(output, TAG)
        yield from _calls(output)


def _calls(output: Output) -> Reading[None]:
    character = yield from visible()
    while (yield from call(output, character)):
        output.end()
        character = yield from visible()
        if character == ";":
            character = yield from visible()
    refused(output)


def write(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of one to ``most`` calls. Raises GrammarInvalid."""
    call = call_object(rules, tools, "parameters")
    return f"{literal(TAG)}? {listed(rules, call, literal('; '), most)}"


def triggers(tools: Sequence[Tool]) -> tuple[str, ...]:
    """The tag, or what no other answer than a call begins with."""
    names = [json.dumps(name_of(tool), ensure_ascii=False) for tool in tools]
    begun = [f'{{"name":{gap}{name}' for name in names for gap in (" ", "")]
    return TAG, *begun
