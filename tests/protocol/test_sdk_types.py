"""What the vendors' SDKs may send, by their own types, sent to a whole cluster."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vendor_requests import ALLOWED, ASIDE, LIMITS, VENDORS, Body

from .wire import Node, error_of, naming

REQUESTS_EACH = 25
"""How many are sent to every route."""

FEW = settings(max_examples=REQUESTS_EACH)
SHORT = {
    route: replace(vendor, needs=vendor.needs | LIMITS.keys()).requests()
    for route, vendor in {**VENDORS, **ASIDE}.items()
}


def own(body: Body, model: str) -> Body:
    """The request with the model that there is."""
    return {**body, "model": model}


@pytest.mark.clause("POST-5")
@pytest.mark.parametrize("route", SHORT)
@given(data=st.data())
@FEW
def test_what_is_offered_is_answered(
    node: Node, model: str, route: str, data: st.DataObject
) -> None:
    body = data.draw(SHORT[route])
    response = node.http.post(route, json=own(body, model))
    assert response.status_code == 200, response.text
    is_stream = response.headers["content-type"].startswith("text/event-stream")
    assert is_stream is bool(body.get("stream"))
    assert b'"error":{' not in response.content


@pytest.mark.clause("POST-4")
@pytest.mark.parametrize("route", ALLOWED)
@given(data=st.data())
@FEW
def test_what_is_refused_opens_nothing(
    nodes: tuple[Node, Node], model: str, route: str, data: st.DataObject
) -> None:
    body, name = data.draw(ALLOWED[route]), f"c-{secrets.token_hex(6)}"
    response = nodes[0].http.post(route, headers=naming(name), json=own(body, model))
    found = nodes[1].lookup(name)
    if response.status_code == 200:
        assert len(found) == 1
    else:
        assert response.status_code in (400, 404) and error_of(response)["message"]
        assert found == []
