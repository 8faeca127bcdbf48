"""What the vendors' SDKs may send, by their own types, and what the dialects make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dialects.anthropic_messages import MESSAGES
from api.dialects.openai_chat import CHAT
from api.dialects.openai_completions import COMPLETIONS
from api.dialects.openai_responses import RESPONSES
from api.problems import RequestInvalid
from replay.request import GenerationRequest
from tests.vendor_requests import ALLOWED, OFFERED

DIALECTS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETIONS,
}

NEEDED = ("content", "input", "prompt")
"""What a refusal may name though the body lacks it."""


def test_every_vendors_route_is_drawn_from() -> None:
    assert OFFERED.keys() == ALLOWED.keys() == DIALECTS.keys()


@pytest.mark.parametrize("route", DIALECTS)
@given(data=st.data())
def test_what_is_offered_becomes_a_generation(route: str, data: st.DataObject) -> None:
    body = data.draw(OFFERED[route])
    request = DIALECTS[route].parse(body, random_seed=1)
    assert GenerationRequest.from_json(request.to_json()) == request
    assert request.dialect == DIALECTS[route].name
    assert request.render.stream is bool(body.get("stream"))
    limits = {
        body.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")
    }
    assert request.max_tokens in limits | {-1}


@pytest.mark.parametrize("route", DIALECTS)
@given(data=st.data())
def test_what_is_not_is_refused_by_the_name_of_a_field(route: str, data: st.DataObject) -> None:
    body = data.draw(ALLOWED[route])
    try:
        request = DIALECTS[route].parse(body, random_seed=1)
    except RequestInvalid as error:
        assert any(name in str(error) for name in (*body, *NEEDED))
    else:
        assert GenerationRequest.from_json(request.to_json()) == request
