"""What a chat template can show, found out by rendering it: nothing else tells. Pure.

Templates differ in whether they know a system role, tools, calls in the history and content in
parts; what one lacks is put into its messages in another way (``conversation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference_worker.template_sandbox import TemplateBroken
from inference_worker.tools import GENERIC, syntax_of

_NEEDLE = "needle in a haystack"
_ARGUMENT = "needle_argument"
_TOOL = {
    "type": "function",
    "function": {
        "name": "needle_tool",
        "description": "d",
        "parameters": {"type": "object", "properties": {_ARGUMENT: {"type": "string"}}},
    },
}
_USER = {"role": "user", "content": "hello"}


class Render(Protocol):
    """Renders messages; raises TemplateBroken."""

    def __call__(self, messages: Sequence[dict[str, Any]], *, tools: Sequence[Any] = ()) -> str:
        """The prompt's text."""
        ...


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the template shows of what it is given.

    ``tools``: it shows them, and it is known how its model calls them.
    ``wants_parts``: content only as an array. ``wants_objects``: a call's arguments as an object,
    not as its JSON.
    """

    system_role: bool = True
    developer_role: bool = False
    tools: bool = False
    calls: bool = False
    results: bool = True
    wants_parts: bool = False
    wants_objects: bool = False


def probed(source: str, render: Render) -> Abilities:
    """The abilities of the template that ``render`` renders."""

    def shows(needle: str, *messages: dict[str, Any], tools: Sequence[Any] = ()) -> bool:
        try:
            return needle in render(messages, tools=tools)
        except TemplateBroken:
            return False

    parts = [{"type": "text", "text": _NEEDLE}]
    wants_parts = not shows(_NEEDLE, _user(_NEEDLE)) and shows(_NEEDLE, _user(parts))

    def content(text: str) -> Any:
        return [{"type": "text", "text": text}] if wants_parts else text

    hello = _user(content("hello"))
    system = {"role": "system", "content": content(_NEEDLE)}
    spelled = f'{{"{_ARGUMENT}": "x"}}'
    takes_text = _shows_argument(shows, hello, _call(spelled, content("")))
    takes_objects = _shows_argument(shows, hello, _call({_ARGUMENT: "x"}, content("")))
    result = {"role": "tool", "content": content(_NEEDLE), "tool_call_id": "call00001"}
    call = _call({_ARGUMENT: "x"} if takes_objects else spelled, content(""))
    return Abilities(
        system_role=shows(_NEEDLE, system, hello),
        developer_role="developer" in source,
        tools=syntax_of(source) is not GENERIC and shows("needle_tool", hello, tools=[_TOOL]),
        calls=takes_text or takes_objects,
        results=shows(_NEEDLE, hello, call, {**result, "name": "needle_tool"}),
        wants_parts=wants_parts,
        wants_objects=takes_objects and not takes_text,
    )


def _shows_argument(shows: Any, *messages: dict[str, Any]) -> bool:
    """In JSON, as Python writes a dict, or in tags; never as JSON within a JSON string."""
    spellings = (
        *(f'"{_ARGUMENT}":', f"'{_ARGUMENT}':", f"={_ARGUMENT}>", f"<{_ARGUMENT}>"),
        *(f">{_ARGUMENT}<", f'"{_ARGUMENT}">'),
    )
    return any(shows(spelling, *messages) for spelling in spellings)


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _call(arguments: Any, content: Any) -> dict[str, Any]:
    function = {"name": "needle_tool", "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}
