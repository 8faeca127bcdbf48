"""Qwen3-Coder: ``<function=name><parameter=key>value</parameter></function>``, in ``<tool_call>``.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from inference_worker.grammar import GrammarRules, literal, schema_rule
from inference_worker.tools.reading import (
    Output,
    Reading,
    closed,
    content_until,
    reached,
    refused,
    until,
)
from inference_worker.tools.writing import Tool, any_of, listed, name_of, parameters_of, text_until

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
    before = "{"
    while not (yield from _is_over()):
        key = yield from until(">")
        text = yield from until(PARAMETER_END)
        kind = _type_of(output.tools[name], key)
        output.argument(f"{before}{json.dumps(key, ensure_ascii=False)}: {_json(text, kind)}")
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


def _type_of(schema: Any, key: str) -> object:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    parameter = properties.get(key) if isinstance(properties, Mapping) else None
    return parameter.get("type", "string") if isinstance(parameter, Mapping) else "string"


def _json(text: str, kind: object) -> str:
    """A parameter's value, which stands on lines of its own; a text is not JSON there."""
    text = text.removeprefix("\n").removesuffix("\n")
    if kind != "string":
        try:
            return json.dumps(json.loads(text), ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return json.dumps(text, ensure_ascii=False)


def write(rules: GrammarRules, tools: Sequence[Tool], most: int) -> str:
    """GBNF of one to ``most`` calls. Raises GrammarInvalid."""
    called = any_of(rules, "called", [_function(rules, tool) for tool in tools])
    whole = f"({literal(BEGIN)} {_LINE})? {called} ({_LINE} {literal(END)})?"
    return listed(rules, rules.define("call", whole), _LINE, most)


_LINE = '"\\n"?'


def _function(rules: GrammarRules, tool: Tool) -> str:
    schema = parameters_of(tool)
    required = schema.get("required", ())
    parameters = [
        f"({_parameter(rules, key, schema)} {_LINE})" + ("" if key in required else "?")
        for key in schema.get("properties", {})
    ]
    begin, end = literal(f"{FUNCTION}{name_of(tool)}>"), literal(FUNCTION_END)
    return rules.define(f"call-{name_of(tool)}", " ".join([begin, _LINE, *parameters, end]))


def _parameter(rules: GrammarRules, key: str, schema: Mapping[str, Any]) -> str:
    """A text up to the closing tag, or JSON."""
    begin, line = literal(f"{PARAMETER}{key}>"), _LINE
    parameter = schema["properties"][key]
    is_text = _type_of(schema, key) == "string"
    if is_text and "enum" not in parameter:
        return rules.define(f"parameter-{key}", f"{begin} {text_until(rules, PARAMETER_END)}")
    if is_text:
        value = any_of(rules, f"value-{key}", [literal(str(one)) for one in parameter["enum"]])
    else:
        value = schema_rule(rules, {**parameter, "$defs": schema.get("$defs", {})})
    body = f"{begin} {line} {value} {line} {literal(PARAMETER_END)}"
    return rules.define(f"parameter-{key}", body)
