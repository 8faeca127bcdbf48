"""What stands in a request's path, query and headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replay.slot_order import ACTIONS


def _parameter(where: str, name: str, about: str, **schema: Any) -> dict[str, Any]:
    found = {
        "in": where,
        "name": name,
        "description": about,
        "schema": schema or {"type": "string"},
    }
    return {**found, "required": True} if where == "path" else found


def _query(name: str, about: str, **schema: Any) -> dict[str, Any]:
    return _parameter("query", name, about, **schema)


_NATURAL = {"type": "integer", "minimum": 0}
_POSITIVE = {"type": "integer", "minimum": 1}
_FLAG = {"type": "boolean", "default": False}

PARAMETERS: Mapping[str, dict[str, Any]] = {
    "X-Conversation-Id": _parameter(
        "header", "X-Conversation-Id", "Opts in: the session outlives the connection by this name."
    ),
    "Idempotency-Key": _parameter(
        "header", "Idempotency-Key", "Equal requests under one key are one generation for 24 h."
    ),
    "X-Message-Id": _parameter(
        "header", "X-Message-Id", "Kept with the session, and told by lookup."
    ),
    "X-Stream-Prefix-Chars": _parameter(
        "header", "X-Stream-Prefix-Chars", "How much of the message stood there before: `120,0`."
    ),
    "Last-Event-ID": _parameter("header", "Last-Event-ID", "`<epoch>-<offset>`, with `ids=true`."),
    "if_busy": _query(
        "if_busy",
        "What happens where the conversation is live.",
        type="string",
        enum=["replace", "attach", "queue", "reject"],
        default="replace",
    ),
    "conv_id": {**_query("conv_id", "The session's name."), "required": True, "example": "trip"},
    "from": _query("from", "The offset of the first byte wanted.", **_NATURAL, default=0),
    "epoch": _query("epoch", "That session of the conversation, not the current one.", **_POSITIVE),
    "keep": _query("keep", "Keeps what was said readable.", **_FLAG),
    "ids": _query("ids", "Frames carry `id:` lines for EventSource.", **_FLAG),
    "view": _query("view", "The answer so far as one message.", type="string", enum=["merged"]),
    "link": _query("link", "A signed link's; stands in for a key."),
    "response_id": _parameter("path", "response_id", "As `response.created` told it."),
    "stream": _query("stream", "Events instead of the response.", **_FLAG),
    "starting_after": _query("starting_after", "The last `sequence_number` received.", **_NATURAL),
    "after": _query("after", "The last item received."),
    "limit": _query("limit", "So many at most.", **_POSITIVE, maximum=100, default=20),
    "order": _query(
        "order", "The last first.", type="string", enum=["asc", "desc"], default="desc"
    ),
    "model": _query("model", "Only this one."),
    "model_id": _parameter("path", "model_id", "The model's name, or an alias."),
    "fail_on_no_slot": _query("fail_on_no_slot", "503 where no slot is free.", **_FLAG),
    "id_slot": _parameter("path", "id_slot", "Its number in the list.", **_NATURAL),
    "action": {
        **_query("action", "What becomes of its cache.", type="string", enum=list(ACTIONS)),
        "required": True,
    },
}
