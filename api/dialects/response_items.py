"""What a response was asked, as the items that Responses list of it. Pure.

The inverse of what ``openai_responses`` makes of an input: the record keeps messages alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.problems import RequestInvalid

ITEMS_DEFAULT = 20
ITEMS_MAX = 100
"""Most items of one page."""

ID_CHARACTERS = 32
PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
}


@dataclass(frozen=True, slots=True)
class Window:
    """Which items of a list are wanted: so many behind the one of the id ``after``."""

    after: str | None = None
    limit: int = ITEMS_DEFAULT
    is_ascending: bool = False


def items_of(messages: Iterable[Mapping[str, Any]], seed: str) -> list[dict[str, Any]]:
    """The items in the order of the messages; ``seed`` makes their ids, the same each time."""
    items = [item for message in messages for item in _items(message)]
    return [
        {"id": _id(item["type"], seed, index), "status": "completed", **item}
        for index, item in enumerate(items)
    ]


def page_of(items: Sequence[dict[str, Any]], window: Window) -> dict[str, Any]:
    """One page of the list. Raises RequestInvalid where it is to begin behind no item of it."""
    ordered = list(items if window.is_ascending else reversed(items))
    begin = 0
    if window.after is not None:
        ids = [item["id"] for item in ordered]
        if window.after not in ids:
            raise RequestInvalid("'after' is the id of no item of this response's input")
        begin = ids.index(window.after) + 1
    shown = ordered[begin : begin + window.limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": begin + len(shown) < len(ordered),
    }


def _id(kind: str, seed: str, index: int) -> str:
    return (
        PREFIXES[kind] + hashlib.sha256(f"{seed}/in/{index}".encode()).hexdigest()[:ID_CHARACTERS]
    )


def _items(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    texts = _texts(message["content"])
    match message["role"]:
        case "assistant":
            yield from _answered(message, texts)
        case "tool":
            output = texts[0] if len(texts) == 1 else _parts("input_text", texts)
            call_id = message["tool_call_id"]
            yield {"type": "function_call_output", "call_id": call_id, "output": output}
        case role:
            yield {"type": "message", "role": role, "content": _parts("input_text", texts)}


def _answered(message: Mapping[str, Any], texts: list[str]) -> Iterator[dict[str, Any]]:
    """What is one message to the template: a thought, what was said, calls."""
    thought, calls = message.get("reasoning_content"), message.get("tool_calls", ())
    if thought:
        yield {"type": "reasoning", "summary": [], "content": _parts("reasoning_text", [thought])}
    if message["content"] or not (thought or calls):
        said = _parts("output_text", texts)
        content = [{**part, "annotations": [], "logprobs": []} for part in said]
        yield {"type": "message", "role": "assistant", "content": content}
    for call in calls:
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _texts(content: Any) -> list[str]:
    """The inverse of ``as_chat.content_of``."""
    return [part["text"] for part in content] if isinstance(content, list) else [content]


def _parts(kind: str, texts: Iterable[str]) -> list[dict[str, Any]]:
    return [{"type": kind, "text": text} for text in texts]
