"""GLM: ``<tool_call>name``, then ``<arg_key>key</arg_key><arg_value>value</arg_value>``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from inference_worker.grammar import GrammarRules
from inference_worker.tools.reading import Output, Reading, content_until, refused, visible
from inference_worker.tools.tagged import LINE, Tags, read_call, write_call
from inference_worker.tools.writing import Tool, listed

TAGS = Tags(
    call="<tool_call>",
    name_ends="\n<",
    key="<arg_key>",
    key_end="</arg_key>",
    value="<arg_value>",
    value_end="</arg_value>",
    end="</tool_call>",
    has_lines=False,
)
SHOWN = (TAGS.call, TAGS.end, TAGS.key, TAGS.key_end, TAGS.value, TAGS.value_end)


def read(output: Output) -> Reading[None]:
    """Content and calls, in any order."""
    while True:
        yield from content_until(output, TAGS.call)
        character = yield from visible()
        if not (yield from read_call(output, TAGS, character)):
            refused(output)


def write(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of one to ``most`` calls. Raises GrammarInvalid."""
    return listed(rules, write_call(rules, tools, TAGS), LINE, most)
