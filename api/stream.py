"""Reading, finding and stopping sessions, whichever node they were started on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from api import requests
from api.compacted_response import CompactedResponse
from api.event_ids import EventIds
from api.gzip_coding import GzipMember
from api.json_body import parse_json
from api.lasting import Lasting
from api.merged import merged_response
from api.node import Node, NodeDep
from api.problems import RequestInvalid, Unavailable
from api.stream_response import IDENTITY, Coding, SessionHead, StreamResponse
from replay.errors import (
    EpochMismatch,
    LogUnavailable,
    OffsetBeyondEnd,
    OffsetDoubtful,
    SessionExpired,
    SessionNotFound,
)
from replay.identity import SessionRef
from replay.log_values import Doubt, Stopped
from replay.records import SessionRecord, State

RELEASE_WAIT_S = 0.25
"""How long a DELETE waits for the producer's word, so that no token follows the answer."""

router = APIRouter()


class _Rest(Convertor[str]):
    """The rest of a path, line breaks too."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", _Rest())


@router.get("/v1/stream")
@router.get("/v1/stream/{conv_id:rest}", include_in_schema=False)
async def read_stream(request: Request, node: NodeDep) -> Response:
    """The session's bytes from ``from`` on, then live until it ends; with ``ids`` for EventSource,
    with ``view=merged`` as one message."""
    node.presence.check_open()
    query = requests.query_of(request)
    name = requests.stream_name(request, query)
    with_ids, is_merged = requests.parse_flag(query, "ids"), requests.parse_view(query)
    resumed = requests.parse_last_event(request, query) if with_ids else None
    epoch = resumed.epoch if resumed else requests.parse_epoch(query)
    record = await resolve(node, request, name, epoch)
    if is_merged:
        return await merged_response(node, _head(record), record.state)
    offset = resumed.offset if resumed else requests.parse_offset(query)
    return await replayed(node, request, record, offset, with_ids=with_ids)


def _head(record: SessionRecord) -> SessionHead:
    return SessionHead(record.ref, record.completion_id, record.ping_interval_s)


async def replayed(
    node: Node, request: Request, record: SessionRecord, offset: int, *, with_ids: bool = False
) -> Response:
    """The answer that reads a session. Raises what is wrong with the offset."""
    await _check(node, record, offset)
    head = _head(record)
    if with_ids and record.state.is_final and offset == record.end:
        # The only status by which an EventSource learns that it need not come back.
        return Response(status_code=204, headers=head.headers(record.state, offset=offset))
    coding: Coding = EventIds(record.ref) if with_ids else IDENTITY
    if record.packed_bytes:
        if not with_ids and requests.accepts_gzip(request):
            coding = GzipMember()
        return Lasting(
            CompactedResponse(node, head, offset=offset, state=record.state, coding=coding)
        )
    return Lasting(
        StreamResponse(
            node.connections,
            node.tailer,
            head,
            offset=offset,
            state=record.state,
            is_stored=offset < record.end or record.state.is_final,
            coding=coding,
        )
    )


async def resolve(node: Node, request: Request, name: str, epoch: int | None) -> SessionRecord:
    """The session that a request means. Raises what ``SessionLog.resolve`` does, Unavailable."""
    if not requests.may_exist(name):
        raise SessionNotFound(name)
    try:
        return await node.log.resolve(requests.tenant_of(request), name, epoch)
    except (SessionNotFound, SessionExpired, EpochMismatch):
        node.recovery.check()
        raise


async def _check(node: Node, record: SessionRecord, offset: int) -> None:
    """What the record tells already: what no log has, or has as it was, or not yet."""
    if offset > record.end and (record.state.is_final or offset >= 10**requests.DIGITS_MAX):
        raise OffsetBeyondEnd(offset, record.end)
    doubt = Doubt.of(record)
    if doubt is not None and doubt.concerns(offset):
        raise OffsetDoubtful(offset, doubt.offset)
    waits = record.state is State.QUEUED and offset == record.end
    if waits and await node.catalog.is_loading(record.model):
        raise Unavailable("Stream owner model is loading, retry later", "loading")


@router.delete("/v1/stream")
@router.delete("/v1/stream/{conv_id:rest}", include_in_schema=False)
async def stop_stream(request: Request, node: NodeDep) -> Response:
    """Ends the session and evicts its bytes for good; with ``keep`` they stay. 204, or an error."""
    query = requests.query_of(request)
    name = requests.stream_name(request, query)
    epoch = requests.parse_epoch(query)
    keep = requests.parse_flag(query, "keep")
    if not requests.may_exist(name):
        return Response(status_code=204)
    tenant = requests.tenant_of(request)
    stopped = await stop(node, tenant, name, epoch=epoch, keep=keep)
    if not keep:
        await node.log.erased(tenant, name)
    return Response(status_code=204, headers=_stop_headers(stopped))


async def stop(
    node: Node,
    tenant: str,
    name: str,
    *,
    epoch: int | None = None,
    keep: bool = False,
    reason: str = "client",
) -> Stopped | None:
    """Stops what ``name`` means; returns once its job is gone or its producer has let go.

    None where there is nothing. Raises EpochMismatch and LogUnavailable.
    """
    async with AsyncExitStack() as stack:
        released = None
        if ref := await _live_ref(node, tenant, name, epoch):
            released = await stack.enter_async_context(node.tailer.listen(ref))
        # Also where nothing runs now: a POST may be about to open it, and the stop must be noted.
        stopped = await _stop(node, tenant, name, epoch, keep, reason)
        if stopped is None or not stopped.stopped:
            return stopped
        if stopped.was_claimed:
            if released and stopped.ref == ref:
                await _wait_for(released)
            return stopped
    with suppress(LogUnavailable):  # whoever takes the job finds that the session has ended
        await node.queue.remove(stopped.ref, dispatch=stopped.dispatch)
    return stopped


async def _stop(
    node: Node, tenant: str, name: str, epoch: int | None, keep: bool, reason: str
) -> Stopped | None:
    try:
        stopped = await node.log.stop(tenant, name, epoch=epoch, keep=keep, reason=reason)
    except EpochMismatch:
        node.recovery.check()  # that epoch may be what Redis has just forgotten
        raise
    if stopped is None:
        node.recovery.check()
    else:
        node.recovery.remember(stopped, keep=keep, reason=reason)
    return stopped


def _stop_headers(stopped: Stopped | None) -> dict[str, str]:
    if stopped is None:
        return {}
    return {
        "X-Stream-Epoch": str(stopped.ref.epoch),
        "X-Stream-State": str(stopped.state),
        "X-Stream-Size": str(stopped.size),
    }


async def _live_ref(node: Node, tenant: str, name: str, epoch: int | None) -> SessionRef | None:
    try:
        record = await node.log.resolve(tenant, name, epoch)
    except (SessionNotFound, SessionExpired, EpochMismatch):
        return None
    return None if record.state.is_final else record.ref


async def _wait_for(released: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(RELEASE_WAIT_S):
            await released.wait()


@router.post("/v1/streams/lookup")
async def lookup_streams(request: Request, node: NodeDep) -> list[dict[str, Any]]:
    """The current sessions of the ids in the body's ``conversation_ids``; others are never told."""
    body = parse_json(await requests.read_body(request, node.settings.body_bytes_max))
    names = names_asked(body, node.settings.lookup_ids_max)
    return await summaries(node, requests.tenant_of(request), names)


async def summaries(node: Node, tenant: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """What a lookup tells of ``names``. Raises LogUnavailable, also while what is not there may
    only not be there yet."""
    if not names:
        return []
    records = await node.log.lookup(tenant, names)
    if len(records) < len(names):
        node.recovery.check()
    waiting = [record for record in records if record.state is State.QUEUED]
    positions = await _positions(node, waiting)
    return [summary(record, positions.get(record.ref)) for record in records]


def names_asked(body: Any, most: int) -> list[str]:
    """The names in a lookup's body; what is none is ignored. Raises RequestInvalid. Pure."""
    asked = body.get("conversation_ids") if isinstance(body, dict) else None
    if not isinstance(asked, list):
        return []
    if len(asked) > most:
        raise RequestInvalid(f"Field 'conversation_ids': more than {most} ids")
    names = [name for name in asked if isinstance(name, str) and name]
    return [name for name in names if requests.may_exist(name)]


async def _positions(node: Node, waiting: Sequence[SessionRecord]) -> dict[SessionRef, int | None]:
    """The places in the queue; none while the queue plane is away, for the rest is still true."""
    try:
        found = await node.queue.positions([(record.ref, record.dispatch) for record in waiting])
    except LogUnavailable:
        return {}
    return {record.ref: place for record, place in zip(waiting, found, strict=True)}


def summary(record: SessionRecord, queue_position: int | None) -> dict[str, Any]:
    """One session as lookup tells it: llama.cpp's five keys, then ours. Pure."""
    return {
        "conversation_id": record.name,
        "is_done": record.state.is_final,
        "total_bytes": record.end,
        "started_at": record.created_ms // 1000,
        "completed_at": record.ended_ms // 1000,
        "state": record.state,
        "reason": record.reason,
        "epoch": record.epoch,
        "model": record.model,
        "completion_id": record.completion_id,
        "queue_position": queue_position,
        "tokens": record.token_count,
        "message_id": record.message_id,
        "prefix_chars": {
            "content": record.prefix_content_chars,
            "reasoning": record.prefix_reasoning_chars,
        },
    }
