"""Every error that a client can see: its class, its status, its body. The only such table.

A class here carries data; its text is ``str()`` of it. What ``replay`` raises is in the table too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from api import request_ids
from replay import errors, frames

RETRY_AFTER_S = 1


class ApiError(Exception):
    """Base of what this package raises; never raised itself."""


class RequestInvalid(ApiError):
    """The client must change its request; the message names the field."""


class KeyInvalid(ApiError):
    """No known API key came with the request."""

    def __str__(self) -> str:
        return "Invalid API Key"


class ScopeMissing(ApiError):
    """The key is known, and may not do this."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(scope)

    def __str__(self) -> str:
        return f"this key lacks the scope '{self.scope}'"


class LinkInvalid(ApiError):
    """The signed link opens nothing; ``reason``: invalid or expired."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return (
            "this link has expired" if self.reason == "expired" else "this link is not valid here"
        )


class TooManySessions(ApiError):
    """The tenant has as many as it may; ``kind``: queued or live."""

    def __init__(self, kind: str, limit: int) -> None:
        self.kind = kind
        self.limit = limit
        super().__init__(kind, limit)

    def __str__(self) -> str:
        return f"{self.limit} sessions are {self.kind} already, retry later"


class NothingThere(ApiError):
    """No such route, or not with this method."""

    def __init__(self, method: str, path: str) -> None:
        self.method = method
        self.path = path
        super().__init__(method, path)

    def __str__(self) -> str:
        return f"there is no {self.method} {self.path}"


class BodyTooLarge(ApiError):
    """The request's body exceeds ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(limit)

    def __str__(self) -> str:
        return f"the request body exceeds {self.limit} bytes"


class ContextExceeded(ApiError):
    """The prompt does not fit into a slot."""

    def __init__(self, message: str, prompt_tokens: int, context_tokens: int) -> None:
        self.message = message
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens
        super().__init__(message, prompt_tokens, context_tokens)

    def __str__(self) -> str:
        return self.message


class Unavailable(ApiError):
    """Not now; the client may retry. ``reason`` is for programs: loading, no worker, draining."""

    def __init__(self, message: str, reason: str) -> None:
        self.message = message
        self.reason = reason
        super().__init__(message, reason)

    def __str__(self) -> str:
        return self.message


class ConversationBusy(ApiError):
    """A session of the conversation is live, and the client wants it left alone."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(epoch)

    def __str__(self) -> str:
        return f"the conversation is busy with its session of epoch {self.epoch}"


class EngineBroken(ApiError):
    """A worker could not check the request, for reasons of its own."""


class NotSupported(ApiError):
    """The model, or how it is served, does not offer this; the message names what would."""


class SessionEnded(ApiError):
    """A session ended before it said anything; ``headers`` name it."""

    def __init__(
        self, message: str, *, state: str, reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.message = message
        self.state = state
        self.reason = reason
        self.headers = dict(headers or {})
        super().__init__(message, state, reason)

    def __str__(self) -> str:
        return self.message

    @property
    def status(self) -> int:
        """A stop is the client's own doing (never 409, which SDKs retry); the rest is ours."""
        if self.state == "stopped":
            return 400
        return 503 if self.reason in ("queue", "limit") else 500


@dataclass(frozen=True, slots=True)
class Problem:
    """One error as HTTP shows it; ``more`` stands inside ``error``."""

    status: int
    message: str
    type: str
    more: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, path: str = "") -> dict[str, Any]:
        """The envelope in which the dialect of a route wraps an error."""
        for prefix, envelope in _ENVELOPES.items():
            if path == prefix or path.startswith(prefix + "/"):
                return envelope(self)
        return _openai(self)


def _openai(problem: Problem) -> dict[str, Any]:
    error = {"code": problem.status, "message": problem.message, "type": problem.type}
    return {"error": {**error, **problem.more}}


_ANTHROPIC_TYPES = {413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error"}


def _anthropic(problem: Problem) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(problem.status) or frames.ERROR_TYPES.get(problem.status, "")
    if kind in ("", "not_supported_error", "server_error"):
        kind = "api_error" if problem.status >= 500 else "invalid_request_error"
    error = {"type": kind, "message": problem.message, "code": problem.status}
    told = {"type": "error", "error": {**error, **problem.more}}
    return {**told, "request_id": request_ids.new_request_id()}


_ENVELOPES: Mapping[str, Callable[[Problem], dict[str, Any]]] = {"/v1/messages": _anthropic}
"""By path, since some errors come before anybody looks at the request; elsewhere llama.cpp's."""


@dataclass(frozen=True, slots=True)
class _Row:
    status: int | Callable[[Any], int]
    type: str
    more: Callable[[Any], Mapping[str, Any]] = lambda error: {}
    headers: Callable[[Any], Mapping[str, str]] = lambda error: {}
    message: Callable[[Any], str] = str


def _later(error: Any) -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_S)}


_INVALID = "invalid_request_error"
_UNAVAILABLE = "unavailable_error"

TABLE: Mapping[type[Exception], _Row] = {
    RequestInvalid: _Row(400, _INVALID),
    KeyInvalid: _Row(401, "authentication_error"),
    ScopeMissing: _Row(403, "permission_error", lambda error: {"scope": error.scope}),
    LinkInvalid: _Row(403, "permission_error", lambda error: {"reason": f"link {error.reason}"}),
    NothingThere: _Row(404, "not_found_error"),
    BodyTooLarge: _Row(413, _INVALID),
    TooManySessions: _Row(
        429, "rate_limit_error", lambda error: {"reason": error.kind, "limit": error.limit}, _later
    ),
    ContextExceeded: _Row(
        400,
        "exceed_context_size_error",
        lambda error: {"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.context_tokens},
    ),
    Unavailable: _Row(503, _UNAVAILABLE, lambda error: {"reason": error.reason}, _later),
    ConversationBusy: _Row(409, _INVALID, lambda error: {"current_epoch": error.epoch}),
    EngineBroken: _Row(500, "server_error"),
    NotSupported: _Row(501, "not_supported_error"),
    SessionEnded: _Row(
        lambda error: int(error.status),
        "",
        lambda error: {"state": error.state, "reason": error.reason},
        lambda error: {**error.headers, **(_later(error) if error.status == 503 else {})},
    ),
    errors.SessionNotFound: _Row(404, "not_found_error", lambda error: {"reason": error.cause}),
    errors.SessionExpired: _Row(410, _INVALID, lambda error: {"epoch": error.epoch}),
    errors.OffsetInvalid: _Row(400, _INVALID),
    errors.OffsetExpired: _Row(410, _INVALID, lambda error: {"first_offset": error.first_offset}),
    errors.OffsetBeyondEnd: _Row(416, _INVALID, lambda error: {"size": error.size}),
    errors.OffsetDoubtful: _Row(
        416, _INVALID, lambda error: {"size": error.size, "reason": "forgotten"}
    ),
    errors.EpochMismatch: _Row(409, _INVALID, lambda error: {"current_epoch": error.current}),
    errors.StoppedMeanwhile: _Row(
        400, _INVALID, lambda error: {"state": "stopped", "reason": "client"}
    ),
    errors.IntentMismatch: _Row(422, _INVALID),
    errors.LineFull: _Row(503, _UNAVAILABLE, lambda error: {"reason": "busy"}, _later),
    errors.LogUnavailable: _Row(
        503,
        _UNAVAILABLE,
        lambda error: {"reason": "redis"},
        _later,
        # What Redis's client says names hosts, which are no client's business.
        lambda error: "the session log is unavailable, retry later",
    ),
}


def problem_of(error: Exception) -> Problem:
    """How a client is told of ``error``; of what is not in the table it learns nothing."""
    row = TABLE.get(type(error))
    if row is None:
        return Problem(500, "internal error", "server_error")
    status = row.status if isinstance(row.status, int) else row.status(error)
    kind = row.type or frames.ERROR_TYPES[status]
    return Problem(status, row.message(error), kind, row.more(error), row.headers(error))


def problem_response(error: Exception, path: str) -> Response:
    """The whole answer that tells a client of ``error``, in the words of the route at ``path``."""
    problem = problem_of(error)
    body, headers = problem.body(path), dict(problem.headers)
    if "request_id" in body:
        headers[request_ids.HEADER] = body["request_id"]
    return JSONResponse(body, problem.status, headers)


def route_path(scope: Scope) -> str:
    """The path that a request is for, without where a proxy has put us."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
