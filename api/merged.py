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
from replay.log import SessionLog
from replay.pages import pages
from replay.records import End
from replay.request import GenerationRequest

DIALECTS = {one.name: one for one in (CHAT, COMPLETIONS, NATIVE, RESPONSES, MESSAGES)}


@dataclass(frozen=True, slots=True)
class Merged:
    """What a log says up to ``offset``. ``end`` is None while more may come."""

    fold: Fold
    offset: int
    end: End | None


async def merge(log: SessionLog, ref: SessionRef, request: GenerationRequest) -> Merged:
    """Folds what is stored of a session that answers ``request``.

    Raises SessionNotFound, OffsetExpired and LogUnavailable.
    """
    fold, offset, end = DIALECTS[request.dialect].fold(request), 0, None
    async for page in pages(log, ref):
        for stored in page.chunks:
            fold.feed(stored.data)
            offset = stored.end
        end = page.end
    return Merged(fold, offset, end)


async def merged_response(node: Node, head: SessionHead, state: str) -> Response:
    """``?view=merged``."""
    record = await node.log.record(head.ref)
    if record is None:
        raise SessionNotFound(head.ref.conversation_id, "expired")
    merged = await merge(node.log, head.ref, GenerationRequest.from_json(record.request))
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
