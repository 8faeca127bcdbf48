"""Calls between tags: each argument has a key and a value of its own, a text or JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference_worker.grammar import GrammarInvalid, GrammarRules, literal, schema_rule
from inference_worker.grammar.json_schema import DEPTH_MAX
from inference_worker.grammar.keywords import (
    CONSTRAINTS,
    TYPED,
    properties_of,
    required_of,
    types_of,
    values_of,
)
from inference_worker.grammar.references import target_of
from inference_worker.grammar.rules import forked, one_text_of
from inference_worker.grammar.texts import TextRules
from inference_worker.text import held_length
from inference_worker.tools.reading import (
    Output,
    Reading,
    until,
    value,
    visible,
)
from inference_worker.tools.writing import Tool, name_of, parameters_of, text_until
from replay.strict_json import strict_json

LINE = '"\\n"?'


@dataclass(frozen=True, slots=True)
class Tags:
    """Of one family: the name comes behind ``call`` and before one of the characters ``name_ends``,
    which may begin the next tag. ``has_lines``: a value may stand on lines of its own.
    """

    call: str
    name_ends: str
    key: str
    key_end: str
    value: str
    value_end: str
    end: str
    has_lines: bool

    @property
    def line(self) -> str:
        """GBNF of what may stand around a value."""
        return LINE if self.has_lines else ""

    @property
    def taken(self) -> str:
        """What a text of some form never has: the first character of its end, and line ends."""
        return f"{self.value_end[0]}\n"


def read_call(output: Output, tags: Tags, character: str = "") -> Reading[bool]:
    """Reads a call behind its first tag; whether it is one, of a tool that there is."""
    name = character
    while not name or name[-1] not in tags.name_ends:
        if not any(one.startswith(name) for one in output.tools):
            return False
        name += yield
    name, last = name[:-1], name[-1]
    if name not in output.tools:
        return False
    output.begin(name)
    schema = output.tools[name]
    before = "{"
    while not (yield from _is_over(tags, last)):
        key = yield from until(tags.key_end)
        if tags.value:
            yield from until(tags.value)
        output.argument(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
        yield from (_text if _is_text(_parameter_of(schema, key)) else _json)(output, tags)
        before, last = ", ", ""
    output.argument("{}" if before == "{" else "}")
    output.end()
    return True


def _is_over(tags: Tags, text: str) -> Reading[bool]:
    """Reads the next tag, of which there is some text: whether it ends the call, rather than begin
    an argument."""
    while True:
        text += yield
        if text.endswith((tags.key, tags.end)):
            return text.endswith(tags.end)


def _parameter_of(schema: Mapping[str, Any], key: str) -> Any:
    """The schema of one parameter, None where there is none. Raises GrammarInvalid."""
    parameter = properties_of(schema).get(key)
    for _ in range(DEPTH_MAX):
        if not isinstance(parameter, Mapping) or parameter.keys() & CONSTRAINTS != {"$ref"}:
            break
        parameter = target_of(schema, parameter["$ref"])
    return parameter


def _is_text(parameter: Any) -> bool:
    """Whether its values stand there as they are, and not as JSON. Raises GrammarInvalid."""
    if not isinstance(parameter, Mapping):
        return parameter is not False
    words = parameter.keys() & CONSTRAINTS
    if words - TYPED - {"type", "enum", "const"}:
        return False
    values = values_of(parameter)
    if "type" in words or values is None:
        return not words or types_of(parameter) == ["string"]
    return all(isinstance(value, str) for value in values)


def _text(output: Output, tags: Tags) -> Reading[None]:
    """A value that is a text."""
    output.argument('"')
    line = "\n" if tags.has_lines else ""
    first = yield
    text = first.removeprefix(line)
    while not text.endswith(tags.value_end):
        told = len(text) - held_length(text, (tags.value_end, f"{line}{tags.value_end}"))
        output.argument(_spelled(text[:told]))
        text = text[told:] + (yield)
    text = text.removesuffix(tags.value_end).removesuffix(line)
    output.argument(f'{_spelled(text)}"')


def _spelled(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _json(output: Output, tags: Tags) -> Reading[None]:
    """A value that is JSON; a word that is none is a text."""
    character = yield from visible()
    if character in '{["':
        yield from value(character, output.argument)
        yield from until(tags.value_end)
        return
    text = character
    while not text.endswith(tags.value_end):
        text += yield
    text = text.removesuffix(tags.value_end).rstrip()
    try:
        strict_json(text)
    except ValueError:
        text = json.dumps(text, ensure_ascii=False)
    output.argument(text)


def write_call(rules: GrammarRules, tools: Sequence[Tool], tags: Tags) -> str:
    """The rule of one call of any of the tools. Raises GrammarInvalid."""
    name_end = tags.name_ends if len(tags.name_ends) == 1 else ""
    functions = {
        f"{tags.call}{name_of(tool)}{name_end}": _function(rules, tool, tags) for tool in tools
    }
    return rules.define("called", forked(rules, functions))


def _function(rules: GrammarRules, tool: Tool, tags: Tags) -> str:
    schema = parameters_of(tool)
    required = required_of(schema)
    try:
        parameters = [
            f"({_parameter(rules, key, schema, tags)} {LINE})" + ("" if key in required else "?")
            for key in properties_of(schema)
        ]
    except GrammarInvalid as error:
        raise GrammarInvalid(f"the parameters of '{name_of(tool)}': {error}") from None
    body = " ".join([LINE, *parameters, literal(tags.end)])
    return rules.define(f"call-{name_of(tool)}", body)


def _parameter(rules: GrammarRules, key: str, schema: Mapping[str, Any], tags: Tags) -> str:
    """A text up to the closing tag, or JSON. Raises GrammarInvalid."""
    parameter = _parameter_of(schema, key)
    if _is_text(parameter):
        value = _text_rule(rules, parameter if isinstance(parameter, Mapping) else {}, tags)
    else:
        value = f"{LINE} {schema_rule(rules, parameter, document=schema)} {_end(tags, LINE)}"
    begin = literal(f"{tags.key}{key}{tags.key_end}")
    if tags.value:
        begin = f"{begin} {LINE} {literal(tags.value)}"
    return rules.define(f"parameter-{key}", f"{begin} {value}")


def _end(tags: Tags, line: str) -> str:
    return f"{line} {literal(tags.value_end)}"


def _text_rule(rules: GrammarRules, parameter: Mapping[str, Any], tags: Tags) -> str:
    """GBNF of a text and its closing tag. Where it must have a form or a length, less is allowed:
    nothing that could be a part of the tag, no line ends at its edges."""
    line, end = tags.line, _end(tags, tags.line)
    values = values_of(parameter)
    if values is not None:
        ways = [one for one in values if isinstance(one, str)]
        if parameter.keys() & TYPED or not ways:
            raise GrammarInvalid("no value that it names satisfies it, or it is asked for more")
        return f"{line} ({one_text_of(rules, ways)}) {end}"
    wanted = TextRules.of(parameter)
    if wanted.pattern is not None:
        return f"{line} ({wanted.pattern.text(rules, never=tags.taken)}) {end}"
    if wanted.high is None:
        first = rules.define("first", r'[^<\n] | "<"+ [^<\n/]')
        least = f"{line} {rules.repeated(first, wanted.low, wanted.low)}" if wanted.low else ""
        return f"{least} {text_until(rules, tags.value_end)}"
    first, more = rules.define("first", r"[^<\n]"), rules.define("more", "[^<]")
    least = rules.repeated(first, wanted.low, wanted.low)
    return f"{line} {least} {rules.repeated(more, 0, wanted.high - wanted.low)} {end}"
