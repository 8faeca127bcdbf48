"""Qwen3-Coder: ``<function=name><parameter=key>value</parameter></function>``, in ``<tool_call>``.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inference_worker.tools.reading import (
    Output,
    Reading,
    closed,
    content_until,
    reached,
    refused,
    until,
)

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
        except ValueError:
            pass
    return json.dumps(text, ensure_ascii=False)
