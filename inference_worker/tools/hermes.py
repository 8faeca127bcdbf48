"""Hermes, Qwen and others: ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from inference_worker.grammar import GrammarRules, literal
from inference_worker.tools.reading import (
    Output,
    Reading,
    call,
    closed,
    content_until,
    refused,
    visible,
)
from inference_worker.tools.writing import Tool, call_object, listed

BEGIN, END = "<tool_call>", "</tool_call>"


def read(output: Output) -> Reading[None]:
    """Content and calls, in any order."""
    while True:
        yield from content_until(output, BEGIN)
        character = yield from visible()
        if (yield from call(output, character)):
            yield from closed(output, END)
        else:
            refused(output)


def write(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of one to ``most`` calls. Raises GrammarInvalid."""
    called = call_object(rules, tools)
    line = '"\\n"?'
    call = rules.define("call", f"{literal(BEGIN)} {line} {called} {line} {literal(END)}")
    return listed(rules, call, line, most)
