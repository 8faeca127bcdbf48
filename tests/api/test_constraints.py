import json
from typing import Any

import pytest

from api.constraints import parse_constraint
from api.fields import Fields
from api.problems import RequestInvalid
from replay.request import Constraint

SCHEMA = {"type": "object", "properties": {"é": {"const": 1}}}
GRAMMAR = 'root ::= "a"'


def parsed(**body: Any) -> Constraint | None:
    return parse_constraint(Fields(body))


def mistake(**body: Any) -> str:
    with pytest.raises(RequestInvalid) as caught:
        parsed(**body)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "field", "schema"),
    [
        ({"json_schema": SCHEMA}, "json_schema", SCHEMA),
        ({"json_schema": {}}, "json_schema", {}),
        ({"response_format": {"type": "json_object"}}, "response_format.schema", {}),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            "response_format.schema",
            SCHEMA,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "response_format.json_schema.schema",
            SCHEMA,
        ),
        (
            {"response_format": {"type": "json_object", "schema": None}},
            "response_format.schema",
            {},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            {},
        ),
    ],
)
def test_a_schema_is_found_where_clients_put_it(
    body: dict[str, Any], field: str, schema: Any
) -> None:
    found = parsed(**body)
    assert found is not None
    assert (found.field, found.kind, json.loads(found.text)) == (field, "json_schema", schema)


def test_a_grammar_is_taken_as_it_is() -> None:
    assert parsed(grammar=GRAMMAR) == Constraint("grammar", "grammar", GRAMMAR)


@pytest.mark.parametrize(
    "body", [{}, {"grammar": ""}, {"response_format": {"type": "text"}}, {"json_schema": None}]
)
def test_nothing_is_asked_for(body: dict[str, Any]) -> None:
    assert parsed(**body) is None


@pytest.mark.parametrize("kind", ["yaml", 7, None])
def test_a_type_that_is_none_is_refused_as_llama_cpp_does(kind: Any) -> None:
    told = mistake(response_format={"type": kind})
    named = kind if isinstance(kind, str) else json.dumps(kind)
    assert told == (
        'response_format type must be one of "text" or "json_object", '
        f"but got: {named} (Field 'response_format.type')"
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"grammar": 1}, "grammar"),
        ({"response_format": "json"}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": []}},
            "response_format.json_schema",
        ),
    ],
)
def test_a_field_of_another_type_is_named(body: dict[str, Any], field: str) -> None:
    assert f"Field '{field}': expected" in mistake(**body)


def test_a_schema_and_a_grammar_are_one_too_many_but_where_llama_cpp_takes_the_grammar() -> None:
    told = mistake(grammar=GRAMMAR, json_schema={})
    assert told.startswith("Cannot use both json_schema and grammar")
    both = Fields({"grammar": GRAMMAR, "json_schema": {}})
    assert parse_constraint(both, grammar_wins=True) == parsed(grammar=GRAMMAR)
