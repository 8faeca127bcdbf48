"""The messages of a chat as OpenAI has them: checked, and kept nearly verbatim. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.fields import mistyped
from api.problems import RequestInvalid

PARTS_NOT_BUILT = {"image_url": "image", "input_audio": "audio", "input_video": "video"}


def parse_messages(messages: Any) -> tuple[dict[str, Any], ...]:
    """The messages. Raises RequestInvalid for what no template could show."""
    if messages is None:
        raise RequestInvalid("'messages' is required")
    if not isinstance(messages, list):
        raise RequestInvalid("Expected 'messages' to be an array")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise mistyped(f"messages[{index}]", "an object", message)
        _check_message(f"messages[{index}]", message)
    return tuple(map(_said, messages))


def _check_message(name: str, message: Mapping[str, Any]) -> None:
    role = message.get("role")
    if not isinstance(role, str):
        raise mistyped(f"{name}.role", "a string", role)
    has_calls = message.get("tool_calls") not in (None, [])
    if has_calls:
        _check_calls(f"{name}.tool_calls", role, message["tool_calls"])
    thought = message.get("reasoning_content")
    if thought is not None and not isinstance(thought, str):
        raise mistyped(f"{name}.reasoning_content", "a string", thought)
    content = message.get("content")
    if content is None:
        has_refused = isinstance(message.get("refusal"), str)
        _check_may_be_empty(name, role, has_more=has_calls or bool(thought) or has_refused)
    elif isinstance(content, list):
        for index, part in enumerate(content):
            _check_part(f"{name}.content[{index}]", role, part)
    elif not isinstance(content, str):
        raise RequestInvalid(
            f"Expected 'content' to be a string or an array (Field '{name}.content')"
        )


def _check_may_be_empty(name: str, role: str, *, has_more: bool) -> None:
    if role != "assistant":
        raise RequestInvalid(
            f"All non-assistant messages must contain 'content' (Field '{name}.content')"
        )
    if not has_more:
        raise RequestInvalid(
            "Assistant message must contain either 'content' or 'tool_calls'! "
            f"(Field '{name}.content')"
        )


def _check_calls(name: str, role: str, calls: Any) -> None:
    if role != "assistant":
        raise RequestInvalid(f"Field '{name}': only the assistant calls tools")
    if not isinstance(calls, list):
        raise mistyped(name, "an array", calls)
    for index, call in enumerate(calls):
        _check_call(f"{name}[{index}]", call)


def _check_call(name: str, call: Any) -> None:
    if not isinstance(call, dict):
        raise mistyped(name, "an object", call)
    if call.get("type", "function") != "function":
        raise RequestInvalid(f"Field '{name}.type': must be 'function'")
    function = call.get("function")
    if not isinstance(function, dict):
        raise mistyped(f"{name}.function", "an object", function)
    if not isinstance(function.get("name"), str):
        raise mistyped(f"{name}.function.name", "a string", function.get("name"))
    arguments = function.get("arguments")
    if not isinstance(arguments, str | dict):
        raise mistyped(f"{name}.function.arguments", "a string or an object", arguments)


def _check_part(name: str, role: str, part: Any) -> None:
    if not isinstance(part, dict):
        raise mistyped(name, "an object", part)
    kind = part.get("type")
    if isinstance(kind, str) and kind in PARTS_NOT_BUILT:
        raise RequestInvalid(f"Field '{name}': {PARTS_NOT_BUILT[kind]} input is not supported")
    if kind != "text" and (kind, role) != ("refusal", "assistant"):
        raise RequestInvalid(f"unsupported content[].type (Field '{name}.type')")
    if not isinstance(part.get(kind), str):
        raise mistyped(f"{name}.{kind}", "a string", part.get(kind))


def _said(message: dict[str, Any]) -> dict[str, Any]:
    """A refusal is what the assistant said: templates have no other place for it."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [_text_part(part) for part in content]}
    if content is None and isinstance(message.get("refusal"), str):
        return {**message, "content": message["refusal"]}
    return message


def _text_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part
