"""What an answer must satisfy, and what cannot be satisfied, before anything is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis

from .stored import stored
from .wire import Node, error_of

SAYS = '[[say]]{"a": 1}[[/say]]'
UNPARSED = "Failed to initialize samplers: failed to parse grammar"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.clause("FORM-1")
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"json_schema": SCHEMA},
        {"grammar": 'root ::= "{" .* "}"'},
    ],
)
def test_a_form_is_asked_for_in_llama_cpps_words_and_openais(
    node: Node, fields: dict[str, Any]
) -> None:
    response = node.post(None, SAYS, **fields)
    assert response.status_code == 200, response.text
    assert json.loads(response.json()["choices"][0]["message"]["content"]) == {"a": 1}


@pytest.mark.clause("FORM-2")
@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"grammar": "root := x"}, "grammar", UNPARSED),
        ({"grammar": 'root ::= root "a" | "b"'}, "grammar", UNPARSED),
        ({"grammar": "root ::= " + "(" * 9999 + ")" * 9999}, "grammar", UNPARSED),
        ({"json_schema": 123}, "json_schema", "a schema must be an object or a boolean"),
        ({"json_schema": {"type": 123}}, "json_schema", "type 123 is not one of"),
        ({"json_schema": {"not": {}, "type": "null"}}, "json_schema", ""),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "hiccup"}}},
            "response_format.schema",
            "type 'hiccup' is not one of",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"properties": {"a": {"uniqueItems": True}}}},
                }
            },
            "response_format.json_schema.schema",
            "properties.a: uniqueItems is not supported",
        ),
        (
            {"response_format": {"type": "xml"}},
            "response_format.type",
            'response_format type must be one of "text" or "json_object", but got: xml',
        ),
        (
            {"grammar": 'root ::= "a"', "json_schema": {}},
            "json_schema",
            "Cannot use both json_schema and grammar",
        ),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_cannot_be_compiled_is_400_and_touches_nothing(
    node: Node, name: str, db: Redis, fields: dict[str, Any], field: str, told: str
) -> None:
    kept = node.post(name, "[[tokens=3 rate=0]]")
    response = node.post(name, SAYS, **fields)
    assert response.status_code == 400
    message = error_of(response)["message"]
    assert f"Field '{field}'" in message and told in message
    assert stored(db, name).fields["epoch"] == kept.headers["X-Stream-Epoch"]


@pytest.mark.clause("FORM-4")
def test_the_record_has_the_grammar_that_was_compiled(node: Node, name: str, db: Redis) -> None:
    node.post(name, SAYS, json_schema=SCHEMA)
    request = json.loads(stored(db, name).fields["request"])
    assert request["constraint"] is None
    assert request["sampling"]["grammar"].startswith("root ::=")
