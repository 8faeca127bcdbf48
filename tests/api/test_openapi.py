"""The OpenAPI document: every route is in it, and its examples are what it says."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from api.app import create_app
from api.config import ApiSettings
from api.openapi.bodies import BODIES
from api.openapi.operation import TAGS
from api.openapi.operations import OPERATIONS
from api.openapi.parameters import PARAMETERS

APP = create_app(ApiSettings())
DOCUMENT: dict[str, Any] = APP.openapi()
EXAMPLES = [
    pytest.param(body.schema, example["value"], id=f"{name}: {kind}")
    for name, body in BODIES.items()
    for kind, example in body.examples.items()
]


def test_every_route_is_described_and_nothing_else() -> None:
    told = {(m.upper(), path) for path, methods in DOCUMENT["paths"].items() for m in methods}
    assert told == set(OPERATIONS)


def test_the_document_is_openapi() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    ids = [operation.id for operation in OPERATIONS.values()]
    assert len(ids) == len(set(ids))
    assert {operation.tag for operation in OPERATIONS.values()} == {tag["name"] for tag in TAGS}
    used = {name for operation in OPERATIONS.values() for name in operation.parameters}
    assert used == set(PARAMETERS)
    bodies = {operation.body for operation in OPERATIONS.values() if operation.body}
    assert bodies == set(BODIES)


def test_every_operation_tells_its_errors_in_its_envelope() -> None:
    for (method, path), operation in OPERATIONS.items():
        found = DOCUMENT["paths"][path][method.lower()]["responses"]
        for status in operation.errors:
            schema = found[str(status)]["content"]["application/json"]["schema"]["$ref"]
            assert schema.endswith("AnthropicError") == path.startswith("/v1/messages")


def test_whatever_wants_a_key_says_so() -> None:
    public = {path for (_, path), operation in OPERATIONS.items() if operation.is_public}
    assert public == {"/health", "/ready"}
    for (_, path), operation in OPERATIONS.items():
        assert (401 in operation.errors) == (path not in public)


@pytest.mark.parametrize(("schema", "example"), EXAMPLES)
def test_an_example_is_as_its_schema_says(schema: Any, example: Any) -> None:
    jsonschema_rs.validate(schema, example)
