"""The answer so far as one message, and the offset from which to go on: for whoever comes late and
need not have every frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from api.dialects import Fold
from api.dialects.anthropic_messages import MESSAGES
from api.dialects.llama_completion import NATIVE
from api.dialects.openai_chat import CHAT
from api.dialects.openai_completions import COMPLETIONS
from api.dialects.openai_responses import RESPONSES
from api.node import Node
from api.stream_response import SessionHead
from replay.errors import SessionNotFound
from replay.identity import SessionRef
from replay.records import End
from replay.request import GenerationRequest

DIALECTS = {one.name: one for one in (CHAT, COMPLETIONS, NATIVE, RESPONSES, MESSAGES)}


@dataclass(frozen=True, slots=True)
class Merged:
    """What a log says up to ``offset``. ``end`` is None while more may come."""

    fold: Fold
    offset: int
    end: End | None


async def merge(node: Node, ref: SessionRef) -> Merged:
    """Folds what is stored of a session. Raises SessionNotFound, OffsetExpired, LogUnavailable."""
    record = await node.log.record(ref)
    if record is None:
        raise SessionNotFound(ref.conversation_id, "expired")
    request = GenerationRequest.from_json(record.request)
    fold, offset = DIALECTS[request.dialect].fold(request), 0
    while True:
        page = await node.log.read(ref, offset)  # in small pages: folding one takes milliseconds
        for stored in page.chunks:
            fold.feed(stored.data)
            offset = stored.end
        if page.end is not None or not page.more:
            return Merged(fold, offset, page.end)


async def merged_response(node: Node, head: SessionHead, state: str) -> Response:
    """``?view=merged``."""
    merged = await merge(node, head.ref)
    state = merged.end.state if merged.end else state
    told: dict[str, Any] = {
        "epoch": head.ref.epoch,
        "state": state,
        "reason": merged.end.reason if merged.end else "",
        "is_done": merged.end is not None,
        "offset": merged.offset,
        "message": merged.fold.so_far(),
    }
    if merged.fold.error is not None:
        told["error"] = merged.fold.error
    headers = {"Cache-Control": "no-store", **head.headers(state, offset=merged.offset)}
    return JSONResponse(told, headers=headers)
