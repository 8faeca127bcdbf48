"""SSE bytes that any process may have to write into a log, or to understand: comments and errors.

Pure. The answer itself is rendered by the worker alone; these few frames are also written by a
node that keeps a queued session alive, by a stop, and by whoever reaps a session that nobody
owns any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from replay.records import State
from replay.request import Dialect

PING = b":\n\n"
DONE = b"data: [DONE]\n\n"
"""The last event of an OpenAI completion."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
"""llama.cpp's name for each status (wire contract of its server, error envelope)."""

MESSAGES = {
    (State.FAILED, "engine"): "the engine failed while generating",
    (State.FAILED, "load"): "the model could not be loaded",
    (State.FAILED, "storage"): "the session log could not store the answer",
    (State.FAILED, "poison"): "the session ended its workers repeatedly",
    (State.FAILED, "limit"): "no worker took the session within the limit",
    (State.FAILED, "queue"): "the session could not be queued",
    (State.LOST, "log"): "the session log lost this session",
    (State.LOST, "orphan"): "the worker of this session died",
}


def compact(value: Any) -> str:
    """JSON without spaces; what is no Unicode text (a lone surrogate) becomes U+FFFD."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return LONE_SURROGATE.sub("\ufffd", text)


def data(value: Any) -> bytes:
    """One event: ``data: <compact JSON>`` and an empty line."""
    return f"data: {compact(value)}\n\n".encode()


def comment(text: str) -> bytes:
    """One comment, such as ``: queued 3``; clients ignore it and count its bytes."""
    return f": {text}\n\n".encode()


def end_comment(state: State, reason: str) -> bytes:
    """The last frame of every log that did not complete."""
    return comment("end " + compact({"state": str(state), "reason": reason}))


def error_body(status: int, message: str, **more: Any) -> dict[str, Any]:
    """llama.cpp's error envelope; ``more`` stands inside ``error``."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"code": status, "message": message, "type": kind, **more}}


def event(name: str, value: Any) -> bytes:
    """One named event, as Anthropic's and the Responses API have them."""
    return f"event: {name}\n".encode() + data(value)


def _anthropic_error(message: str) -> bytes:
    error = {"type": "api_error", "message": message}
    return event("error", {"type": "error", "error": error})


def _responses_error(message: str) -> bytes:
    # Who ends the session may have no renderer, so nobody numbers this event.
    error = {"type": "error", "code": "server_error", "message": message, "param": None}
    return event("error", error)


_ERROR_EVENTS: Mapping[str, Callable[[str], bytes]] = {
    "anthropic.messages": _anthropic_error,
    "openai.responses": _responses_error,
}
"""What differs from an envelope in a ``data:`` line."""


def error_event(dialect: Dialect | str, message: str) -> bytes:
    """The event that tells of a failure once the answer has begun."""
    if (written := _ERROR_EVENTS.get(dialect)) is not None:
        return written(message)
    return data(error_body(500, message))


def closing(dialect: Dialect | str, state: State, reason: str, detail: str = "") -> bytes:
    """What follows the last bytes of a session that ends as ``state`` and ``reason``.

    A completed one ends exactly as its dialect does, so nothing. A failed or lost one shows the
    dialect's error event, and every other end the comment that says why.
    """
    if state is State.COMPLETED:
        return b""
    if state is State.STOPPED:
        return end_comment(state, reason)
    message = detail or MESSAGES.get((state, reason), f"{state} ({reason})")
    return error_event(dialect, message) + end_comment(state, reason)


def split(written: bytes) -> Iterator[bytes]:
    """The frames of whole frames' bytes, without the empty lines between them."""
    return (frame for frame in written.split(b"\n\n") if frame)


def is_comment(frame: bytes) -> bool:
    """Whether clients ignore the frame: a keep-alive, or the word about the end."""
    return frame.startswith(b":")


def error_of(frame: bytes) -> str | None:
    """The message of an error event in any dialect, None where the frame is another."""
    if not frame.startswith((b'data: {"error":', b"event: error\n")):
        return None
    value = value_of(frame)
    return str(value.get("error", value)["message"])


def value_of(frame: bytes) -> dict[str, Any]:
    """What an event's data says; nothing where it is ``[DONE]``."""
    _, _, written = frame.partition(b"data: ")
    value: dict[str, Any] = {} if written == b"[DONE]" else json.loads(written)
    return value
