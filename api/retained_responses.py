"""A response as its session's record and log have it, on any node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api import requests
from api.dialects.openai_responses import RESPONSES
from api.merged import merge
from api.node import Node
from api.opening import OWN
from replay import frames
from replay.errors import EpochMismatch, SessionExpired, SessionNotFound
from replay.identity import SessionRef
from replay.pages import pages
from replay.records import SessionRecord, State
from replay.request import GenerationRequest
from replay.responses import response_of

STATUSES = {
    State.QUEUED: "queued",
    State.LOADING: "queued",
    State.RUNNING: "in_progress",
    State.STOPPED: "cancelled",
    State.FAILED: "failed",
    State.LOST: "failed",
}
"""What a response is called whose log has no last event; the vendor knows no other words."""


@dataclass(frozen=True, slots=True)
class Retained:
    """A response's session, and what it was asked for with."""

    record: SessionRecord
    request: GenerationRequest


async def retained(node: Node, tenant: str, response_id: str) -> Retained:
    """The response of this id. Raises SessionNotFound where there is none, or no more."""
    try:
        ref = await _resolved(node, tenant, response_id)
    except (SessionNotFound, SessionExpired, EpochMismatch):
        node.recovery.check()
        raise SessionNotFound(response_id) from None
    return await whole(node, ref, response_id)


async def _resolved(node: Node, tenant: str, response_id: str) -> SessionRef:
    """By the conversation that is named by it, or else by the one that the client has named."""
    if not requests.may_exist(OWN + response_id):
        raise SessionNotFound(response_id)
    try:
        return (await node.log.resolve(tenant, OWN + response_id, None)).ref
    except SessionNotFound:
        named = await node.log.completion(response_id)
        if named is None or named.tenant != tenant:
            raise
    # What was evicted may have a record still, but is nobody's session any more.
    return (await node.log.resolve(tenant, named.conversation_id, named.epoch)).ref


async def whole(node: Node, ref: SessionRef, response_id: str) -> Retained:
    """The same, of a session that is known."""
    record = await node.log.record(ref)
    if record is None:
        node.recovery.check()
    if record is None or record.dialect != RESPONSES.name:
        raise SessionNotFound(response_id)
    return Retained(record, GenerationRequest.from_json(record.request))


async def shown(node: Node, found: Retained) -> dict[str, Any]:
    """The response so far. Raises OffsetExpired where its beginning has left the window."""
    record = found.record
    fold = (await merge(node.log, record.ref, found.request)).fold
    told = {**response_of(record, found.request, ""), **fold.answer()}
    if record.state is State.COMPLETED:
        return told
    told["status"] = STATUSES[record.state]
    if record.state.is_final:
        told["output"] = [_cut(item) for item in told["output"]]
    if record.state in (State.FAILED, State.LOST):
        message = fold.error or frames.MESSAGES.get((record.state, record.reason), record.reason)
        told["error"] = {"code": "server_error", "message": message}
    return told


def _cut(item: dict[str, Any]) -> dict[str, Any]:
    """An item to which nothing is added any more."""
    return {**item, "status": "incomplete"} if item["status"] == "in_progress" else item


async def offset_after(node: Node, found: Retained, number: int) -> int:
    """The offset at which the event of this number ends; the log's end where it has none yet."""
    offset = 0
    async for page in pages(node.log, found.record.ref):
        for stored in page.chunks:
            for frame in frames.split(stored.data):
                offset += len(frame) + 2
                if not frames.is_comment(frame) and (
                    frames.value_of(frame).get("sequence_number") == number
                ):
                    return offset
    return offset
