"""What is answered: each dialect's JSON and events, and the errors with their statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.openapi.operation import Operation

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "code": {"type": "integer", "description": "The status, once more."},
                "message": {
                    "type": "string",
                    "description": "Names the field, where one is wrong.",
                },
                "type": {"type": "string"},
                "reason": {"type": "string", "description": "For programs."},
            },
        }
    },
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}

COMPONENTS: dict[str, Any] = {
    "schemas": {"Error": _ERROR, "AnthropicError": _ANTHROPIC_ERROR},
}

STATUSES: Mapping[int, str] = {
    400: "The request is wrong; the message names the field.",
    401: "No known API key came with it.",
    403: "The key, or the link, does not allow this.",
    404: "There is no such thing, or not for this key.",
    409: "Another session is current.",
    410: "It was there, and its retention or its window has passed.",
    413: "The body is too large.",
    416: "The log does not have this offset, or may not have it as it was.",
    422: "The idempotency key was used with another body.",
    429: "Too many sessions of this tenant wait or run; retry after `Retry-After` seconds.",
    500: "The engine failed.",
    501: "The model, or how it is served, does not offer this.",
    503: "Not now; retry after `Retry-After` seconds.",
}

_HEADERS = {
    "X-Stream-Epoch": "Which of the conversation's sessions it is.",
    "X-Stream-Offset": "The offset of the body's first byte.",
    "X-Stream-State": "queued, running, completed, stopped, failed or lost, as the answer began.",
    "X-Completion-Id": "The id that the frames carry.",
}


def answers(operation: Operation) -> dict[str, Any]:
    """The responses of an operation, by status."""
    found: dict[str, Any] = {}
    if operation.answer is not None:
        found[str(operation.status)] = _answer(operation)
    error = "AnthropicError" if operation.is_anthropic else "Error"
    schema = {"$ref": f"#/components/schemas/{error}"}
    for status in operation.errors:
        content = {"application/json": {"schema": schema}}
        found[str(status)] = {"description": STATUSES[status], "content": content}
    return found


def _answer(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {"description": operation.answer}
    content: dict[str, Any] = {}
    if operation.example is not None:
        content["application/json"] = {"example": operation.example}
    if operation.events:
        content["text/event-stream"] = {"schema": {"type": "string"}, "example": operation.events}
    if content:
        found["content"] = content
    if operation.names_session:
        found["headers"] = {
            name: {"description": about, "schema": {"type": "string"}}
            for name, about in _HEADERS.items()
        }
    return found
