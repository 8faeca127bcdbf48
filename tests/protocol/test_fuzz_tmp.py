"""Requests at random, made of the OpenAPI document: every one is answered, and none by a 500."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.app import create_app
from api.config import ApiSettings

from .wire import WAIT_S, Node

REQUESTS_EACH = 50
"""How many are sent to every operation."""

ENDLESS = "/v1/streams/events"

DOCUMENT = schemathesis.openapi.from_dict(create_app(ApiSettings()).openapi())
FUZZED = [one.ok() for one in DOCUMENT.get_all_operations() if one.ok().path != ENDLESS]


def fields_of(operation: Any) -> set[str]:
    """The fields that the operation's body may have."""
    [body] = operation.body
    return set(body.definition["schema"].get("properties", ()))


@pytest.mark.clause("ERR-1")
@pytest.mark.parametrize("operation", FUZZED, ids=lambda one: one.label)
@given(data=st.data())
@settings(
    max_examples=REQUESTS_EACH,
    deadline=None,
    derandomize=False,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_is_answered_by_a_500(node: Node, operation: Any, data: st.DataObject) -> None:
    case = data.draw(operation.as_strategy())
    if isinstance(case.body, dict):
        limit = {"max_tokens": 4, "n_predict": 4, "max_output_tokens": 4, "thinking": None}
        case.body.update({key: limit[key] for key in limit if key in fields_of(operation)})
    response = case.call(base_url=node.url, timeout=WAIT_S)
    assert response.status_code != 500, response.content
    if response.status_code >= 400:
        assert response.json()["error"]["message"]
