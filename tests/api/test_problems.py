"""The table of errors: complete, and in llama.cpp's words."""

from __future__ import annotations

import pytest

from api import problems
from api.problems import TABLE, SessionEnded, problem_of
from replay import errors

BASES = {errors.ReplayError, problems.ApiError}
UNSEEN = {errors.RedisUnfit}
"""What no client is told: the node ends of it."""


def subclasses(module: object, base: type[Exception]) -> set[type[Exception]]:
    found = {value for value in vars(module).values() if isinstance(value, type)}
    return {kind for kind in found if issubclass(kind, base)} - BASES - UNSEEN


def test_every_error_has_its_row() -> None:
    ours = subclasses(problems, problems.ApiError) | subclasses(errors, errors.ReplayError)
    assert set(TABLE) == ours


@pytest.mark.parametrize(
    ("error", "status", "kind", "more"),
    [
        (errors.SessionNotFound("c", "expired"), 404, "not_found_error", {"reason": "expired"}),
        (errors.SessionExpired("c", 7), 410, "invalid_request_error", {"epoch": 7}),
        (errors.OffsetInvalid("x"), 400, "invalid_request_error", {}),
        (errors.OffsetExpired(1, 5), 410, "invalid_request_error", {"first_offset": 5}),
        (errors.OffsetBeyondEnd(9, 5), 416, "invalid_request_error", {"size": 5}),
        (errors.EpochMismatch(1, 2), 409, "invalid_request_error", {"current_epoch": 2}),
        (errors.LogUnavailable("x: 10.0.0.1"), 503, "unavailable_error", {"reason": "redis"}),
        (problems.BodyTooLarge(5), 413, "invalid_request_error", {}),
        (ZeroDivisionError("secret"), 500, "server_error", {}),
    ],
)
def test_an_error_is_told_in_the_envelope(
    error: Exception, status: int, kind: str, more: dict[str, object]
) -> None:
    body = problem_of(error).body()["error"]
    assert list(body)[:3] == ["code", "message", "type"]
    assert (body.pop("code"), body.pop("type")) == (status, kind)
    message = body.pop("message")
    assert message and "secret" not in message and "10.0.0.1" not in message
    assert body == more


@pytest.mark.parametrize(
    ("state", "reason", "status"),
    [
        ("stopped", "client", 400),
        ("stopped", "replaced", 400),
        ("failed", "engine", 500),
        ("failed", "queue", 503),
        ("failed", "limit", 503),
        ("lost", "orphan", 500),
    ],
)
def test_how_a_session_ended_decides_the_status(state: str, reason: str, status: int) -> None:
    problem = problem_of(
        SessionEnded("why", state=state, reason=reason, headers={"X-Stream-State": state})
    )
    assert problem.status == status
    assert problem.headers["X-Stream-State"] == state
    assert ("Retry-After" in problem.headers) is (status == 503)


def test_anthropics_routes_tell_of_errors_in_its_own_envelope() -> None:
    problem = problem_of(problems.ContextExceeded("too long", 9, 8))
    body = problem.body("/v1/messages/count_tokens")
    assert body.pop("request_id").startswith("req_")
    assert body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "too long",
            "code": 400,
            "n_prompt_tokens": 9,
            "n_ctx": 8,
        },
    }
    assert "type" not in problem.body("/v1/messagesx")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (501, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_anthropic_calls_each_status_by_its_own_name(status: int, kind: str) -> None:
    body = problems.Problem(status, "why", "any").body("/v1/messages")
    assert (body["error"]["type"], body["error"]["message"]) == (kind, "why")
