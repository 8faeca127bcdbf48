"""Qwen3-Coder: ``<function=name><parameter=key>value</parameter></function>``, in ``<tool_call>``.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    closed,
    content_until,
    reached,
    refused,
    until,
    value,
    visible,
)
from inference_worker.tools.writing import Tool, listed, name_of, parameters_of, text_until
from replay.strict_json import strict_json

BEGIN, END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"


def read(output: Output) -> Reading[None]:
    """Content and calls, in any order; the model often leaves the outer tag out."""
    while True:
        tag = yield from content_until(output, BEGIN, FUNCTION)
        if tag == FUNCTION or (yield from reached(output, FUNCTION)):
            yield from _call(output)
        else:
            refused(output)


def _call(output: Output) -> Reading[None]:
    name = ""
    while not name.endswith(">"):
        if not any(one.startswith(name) for one in output.tools):
            return refused(output)
        name += yield
    name = name.removesuffix(">")
    if name not in output.tools:
        return refused(output)
    output.begin(name)
    schema = output.tools[name]
    before = "{"
    while not (yield from _is_over()):
        key = yield from until(">")
        output.argument(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
        yield from (_text if _is_text(_parameter_of(schema, key)) else _json)(output)
        before = ", "
    output.argument("{}" if before == "{" else "}")
    yield from closed(output, END)


def _is_over() -> Reading[bool]:
    """Reads the next tag: whether it ends the call, rather than begin a parameter."""
    text = ""
    while True:
        text += yield
        if text.endswith((PARAMETER, FUNCTION_END)):
            return text.endswith(FUNCTION_END)


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


def _text(output: Output) -> Reading[None]:
    """A parameter that is a text, which may stand on lines of its own."""
    output.argument('"')
    first = yield
    text = first.removeprefix("\n")
    while not text.endswith(PARAMETER_END):
        told = len(text) - held_length(text, (PARAMETER_END, f"\n{PARAMETER_END}"))
        output.argument(_spelled(text[:told]))
        text = text[told:] + (yield)
    text = text.removesuffix(PARAMETER_END).removesuffix("\n")
    output.argument(f'{_spelled(text)}"')


def _spelled(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _json(output: Output) -> Reading[None]:
    """A parameter that is JSON; a word that is none is a text."""
    character = yield from visible()
    if character in '{["':
        yield from value(character, output.argument)
        yield from until(PARAMETER_END)
        return
    text = character
    while not text.endswith(PARAMETER_END):
        text += yield
    text = text.removesuffix(PARAMETER_END).rstrip()
    try:
        strict_json(text)
    except ValueError:
        text = json.dumps(text, ensure_ascii=False)
    output.argument(text)


def write(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of one to ``most`` calls. Raises GrammarInvalid."""
    functions = {f"{FUNCTION}{name_of(tool)}>": _function(rules, tool) for tool in tools}
    called = rules.define("called", forked(rules, functions))
    whole = f"({literal(BEGIN)} {_LINE})? {called} ({_LINE} {literal(END)})?"
    return listed(rules, rules.define("call", whole), _LINE, most)


_LINE = '"\\n"?'


def _function(rules: GrammarRules, tool: Tool) -> str:
    schema = parameters_of(tool)
    required = required_of(schema)
    parameters = [
        f"({_parameter(rules, key, schema)} {_LINE})" + ("" if key in required else "?")
        for key in properties_of(schema)
    ]
    body = " ".join([_LINE, *parameters, literal(FUNCTION_END)])
    return rules.define(f"call-{name_of(tool)}", body)


def _parameter(rules: GrammarRules, key: str, schema: Mapping[str, Any]) -> str:
    """A text up to the closing tag, or JSON. Raises GrammarInvalid."""
    parameter = _parameter_of(schema, key)
    if _is_text(parameter):
        value = _text_rule(rules, parameter if isinstance(parameter, Mapping) else {})
    else:
        value = f"{_LINE} {schema_rule(rules, parameter, document=schema)} {_END}"
    return rules.define(f"parameter-{key}", f"{literal(f'{PARAMETER}{key}>')} {value}")


_END = f"{_LINE} {literal(PARAMETER_END)}"


def _text_rule(rules: GrammarRules, parameter: Mapping[str, Any]) -> str:
    """GBNF of a text and its closing tag. Where it must have a form or a length, less is allowed:
    nothing that could be a part of the tag, no line ends at its edges."""
    values = values_of(parameter)
    if values is not None:
        ways = [one for one in values if isinstance(one, str)]
        if parameter.keys() & TYPED or not ways:
            raise GrammarInvalid("no value that it names satisfies it, or it is asked for more")
        return f"{_LINE} ({one_text_of(rules, ways)}) {_END}"
    wanted = TextRules.of(parameter)
    if wanted.pattern is not None:
        return f"{_LINE} {wanted.pattern.text(rules, never=_TAKEN)} {_END}"
    if wanted.high is None:
        first = rules.define("first", r'[^<\n] | "<"+ [^<\n/]')
        least = f"{_LINE} {rules.repeated(first, wanted.low, wanted.low)}" if wanted.low else ""
        return f"{least} {text_until(rules, PARAMETER_END)}"
    first, more = rules.define("first", r"[^<\n]"), rules.define("more", "[^<]")
    least = rules.repeated(first, wanted.low, wanted.low)
    return f"{_LINE} {least} {rules.repeated(more, 0, wanted.high - wanted.low)} {_END}"


_TAKEN = "<\n"
"""What a text of some form never has: the first character of the tag, and what stands before it."""
