"""Messages as a template can show them. Pure.

What a template does not know is said in a way that every template shows: a system message at the
head of the user's, tools and calls as JSON in a message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from inference_worker.engine import Message, PromptInvalid
from inference_worker.template_abilities import Abilities
from replay.request import ChatOptions
from replay.strict_json import call_arguments

TOOLS_INTRODUCTION = (
    "You may call these functions:\n\n{tools}\n\n"
    'Answer with one JSON object: {{"tool_calls": [{{"name": ..., "arguments": {{...}}}}]}} to '
    'call functions, or {{"response": "..."}} to answer the user.'
)
CALL_INTRODUCTION = (
    "You must call one of these functions:\n\n{tools}\n\n"
    'Answer with one JSON object: {{"tool_calls": [{{"name": ..., "arguments": {{...}}}}]}}.'
)


def fitted(
    messages: Sequence[Message], options: ChatOptions, abilities: Abilities
) -> tuple[list[Message], tuple[dict[str, Any], ...]]:
    """The messages and the tools to give to the template. Raises PromptInvalid."""
    said = [_renamed(message, abilities) for message in messages]
    tools = options.tools
    if tools and not abilities.tools:
        said, tools = _introduced(said, options), ()
    said = [_with_calls(message, abilities) for message in said]
    plain = [{**message, "content": text_of(message.get("content"))} for message in said]
    if not abilities.results:
        plain = [_as_users(message) for message in plain]
    if not abilities.system_role:
        plain = list(_merged(plain))
    if abilities.wants_parts:
        plain = [{**message, "content": _parts(message["content"])} for message in plain]
    return plain, tools


def text_of(content: Any) -> str:
    """Content as one string: its text parts joined by line breaks, "" for null."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(map(_part_text, content))
    raise PromptInvalid("content is neither text nor an array")


def _part_text(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise PromptInvalid("unsupported content[].type")


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _renamed(message: Message, abilities: Abilities) -> Message:
    """OpenAI's word for the system's role is known to few templates."""
    if message.get("role") == "developer" and not abilities.developer_role:
        return {**message, "role": "system"}
    return message


def _introduced(messages: list[Message], options: ChatOptions) -> list[Message]:
    """With the tools told in the system message."""
    told = CALL_INTRODUCTION if options.tool_choice == "required" else TOOLS_INTRODUCTION
    tools = json.dumps([tool["function"] for tool in options.tools], ensure_ascii=False, indent=2)
    introduction = told.format(tools=tools)
    if messages and messages[0].get("role") == "system":
        first, *rest = messages
        system = text_of(first.get("content"))
        return [{**first, "content": f"{system}\n\n{introduction}"}, *rest]
    return [{"role": "system", "content": introduction}, *messages]


def _with_calls(message: Message, abilities: Abilities) -> Message:
    """Calls as the template takes them, or as the text that it would have had the model say."""
    if not message.get("tool_calls") or (abilities.calls and not abilities.wants_objects):
        return message
    calls = [_with_object(call) for call in message["tool_calls"]]
    if abilities.calls:
        return {**message, "tool_calls": calls}
    told = [
        {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        for call in calls
    ]
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    said = json.dumps({"tool_calls": told}, ensure_ascii=False)
    before = text_of(message.get("content"))
    return {**rest, "content": f"{before}\n{said}" if before else said}


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments parsed."""
    arguments = call["function"].get("arguments")
    if isinstance(arguments, str):
        arguments = call_arguments(arguments)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _as_users(message: Message) -> Message:
    """What a tool answered, for a template that knows no such role."""
    if message.get("role") not in ("tool", "function"):
        return message
    known = {name: message[name] for name in ("name", "tool_call_id") if message.get(name)}
    result = {"tool_response": {**known, "content": message["content"]}}
    return {"role": "user", "content": json.dumps(result, ensure_ascii=False)}


def _merged(messages: Iterable[Message]) -> Iterator[Message]:
    """Without system messages: their text stands at the head of the user's that follows."""
    pending: list[str] = []
    for message in messages:
        if message.get("role") == "system":
            pending.append(message["content"])
            continue
        if pending and message.get("role") == "user":
            message = {**message, "content": "\n".join([*pending, message["content"]])}
        elif pending:
            yield {"role": "user", "content": "\n".join(pending)}
        pending = []
        yield message
    if pending:
        yield {"role": "user", "content": "\n".join(pending)}
