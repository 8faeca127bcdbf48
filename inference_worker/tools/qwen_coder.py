"""Qwen3-Coder: ``<function=name><parameter=key>value</parameter></function>``, in ``<tool_call>``.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference_worker.grammar import GrammarRules, literal
from inference_worker.tools.reading import Output, Reading, closed, content_until, reached, refused
from inference_worker.tools.tagged import LINE, Tags, read_call, write_call
from inference_worker.tools.writing import Tool, listed

BEGIN, END = "<tool_call>", "</tool_call>"
TAGS = Tags(
    call="<function=",
    name_ends=">",
    key="<parameter=",
    key_end=">",
    value="",
    value_end="</parameter>",
    end="</function>",
    has_lines=True,
)


def read(output: Output) -> Reading[None]:
    """Content and calls, in any order; the model often leaves the outer tag out."""
    while True:
        tag = yield from content_until(output, BEGIN, TAGS.call)
        is_call = tag == TAGS.call or (yield from reached(output, TAGS.call))
        if is_call and (yield from read_call(output, TAGS)):
            yield from closed(output, END)
        else:
            refused(output)


def write(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of one to ``most`` calls. Raises GrammarInvalid."""
    called = write_call(rules, tools, TAGS)
    whole = f"({literal(BEGIN)} {LINE})? {called} ({LINE} {literal(END)})?"
    return listed(rules, rules.define("call", whole), LINE, most)
