"""What an answer must satisfy: a body's ``grammar``, ``json_schema`` or ``response_format``. Pure.

Whether it can be satisfied at all a worker says, in *prepare*.
"""

from __future__ import annotations

import json
from typing import Any

from api.fields import Fields, mistyped
from api.problems import RequestInvalid
from replay.request import Constraint

RESPONSE_TYPES = ("text", "json_object", "json_schema")


def parse_constraint(fields: Fields, *, grammar_wins: bool = False) -> Constraint | None:
    """The constraint that a body asks for, if any. Raises RequestInvalid.

    A grammar beside a schema is a mistake, but on llama.cpp's own route, where ``grammar_wins``.
    """
    grammar = fields.text("grammar")
    schema = _json_schema(fields) or _response_format(fields)
    if not grammar:
        return schema
    if schema is not None and not grammar_wins:
        raise RequestInvalid(f"Cannot use both json_schema and grammar (Field '{schema.field}')")
    return Constraint("grammar", "grammar", grammar)


def _json_schema(fields: Fields) -> Constraint | None:
    schema = fields.get("json_schema")
    return None if schema is None else schema_constraint("json_schema", schema)


def _response_format(fields: Fields) -> Constraint | None:
    asked = fields.get("response_format")
    if asked is None:
        return None
    if not isinstance(asked, dict):
        raise mistyped("response_format", "an object", asked)
    kind = asked.get("type")
    if kind not in RESPONSE_TYPES:
        named = kind if isinstance(kind, str) else json.dumps(kind)
        raise RequestInvalid(
            f'response_format type must be one of "text" or "json_object", but got: {named[:40]} '
            "(Field 'response_format.type')"
        )
    if kind == "text":
        return None
    field = "response_format.schema"
    if kind == "json_schema":
        asked = asked.get("json_schema")
        field = "response_format.json_schema.schema"
        if not isinstance(asked, dict):
            raise mistyped("response_format.json_schema", "an object", asked)
    schema = asked.get("schema")
    return schema_constraint(field, {} if schema is None else schema)


def schema_constraint(field: str, schema: Any) -> Constraint:
    """An answer that validates against the JSON Schema; ``field`` is where the client said it."""
    try:
        return Constraint(field, "json_schema", json.dumps(schema, ensure_ascii=False))
    except RecursionError:
        raise RequestInvalid(f"Field '{field}': nested too deeply") from None
