"""OpenAI's Responses: asked for, and later read, resumed, cancelled, deleted and followed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from api import requests
from api.dialects.as_chat import in_own_words
from api.dialects.openai_responses import RESPONSES, asked_of, messages_of, parse
from api.dialects.response_items import ITEMS_DEFAULT, ITEMS_MAX, Window, items_of, page_of
from api.generations import answer, opened
from api.node import Node, NodeDep
from api.preparing import prompt_length
from api.problems import RequestInvalid
from api.retained_responses import Retained, offset_after, retained, shown, whole
from api.stream import replayed, stop
from api.tokens import Asking
from replay.errors import EpochMismatch
from replay.request import GenerationRequest

router = APIRouter()


@router.post("/v1/responses")
@router.post("/responses", include_in_schema=False)
async def create_response(request: Request, node: NodeDep) -> Response:
    """OpenAI's response, streamed or not; with ``background`` at once, as it is by then."""

    async def parsed(body: Mapping[str, Any], seed: int) -> GenerationRequest:
        before = await _before(node, requests.tenant_of(request), body)
        return parse(body, random_seed=seed, before=before)

    session = await opened(request, node, RESPONSES, parsed)
    if session.request.keep != "generation" or session.request.render.stream:
        return answer(node, session, RESPONSES)
    ref, completion_id = session.head.ref, session.head.completion_id
    found = await whole(node, ref, completion_id)
    return JSONResponse(await shown(node, found), headers=session.headers(found.record.state))


async def _before(node: Node, tenant: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the response has to go on from. Raises SessionNotFound past its retention."""
    previous = body.get("previous_response_id")
    if not isinstance(previous, str) or not previous:
        return []
    found = await retained(node, tenant, previous)
    if not found.record.state.is_final:
        raise RequestInvalid("Field 'previous_response_id': the response has not ended yet")
    return messages_of(found.request, (await shown(node, found))["output"])


@router.post("/v1/responses/input_tokens")
@router.post("/responses/input_tokens", include_in_schema=False)
async def count_response_tokens(request: Request, node: NodeDep) -> Response:
    """How many tokens the prompt of a response has, fit it or not."""
    asking = await Asking.of(request, node)
    before = await _before(node, requests.tenant_of(request), asking.body)
    with in_own_words(RESPONSES.names):
        asked = parse(asking.body, random_seed=0, before=before)
        count = await prompt_length(node, await asking.model(), asked)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})


@router.get("/v1/responses/{response_id}")
async def read_response(request: Request, node: NodeDep, response_id: str) -> Response:
    """The response so far; with ``stream=true`` its events, those after ``starting_after``."""
    query = requests.query_of(request)
    is_streamed = requests.parse_flag(query, "stream")
    number = requests.parse_number(query, "starting_after")
    found = await _retained(request, node, response_id)
    if not is_streamed:
        return JSONResponse(await shown(node, found))
    node.presence.check_open()
    offset = 0 if number is None else await offset_after(node, found, number)
    return await replayed(node, request, found.record, offset)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: Request, node: NodeDep, response_id: str) -> Response:
    """What the response was asked, and what it went on from, as a list of items in pages."""
    window = _window(requests.query_of(request))
    found = await _retained(request, node, response_id)
    items = items_of(asked_of(found.request), found.record.id_seed)
    return JSONResponse(page_of(items, window))


def _window(query: dict[str, list[str]]) -> Window:
    limit = requests.parse_number(query, "limit")
    if limit is not None and not 1 <= limit <= ITEMS_MAX:
        raise RequestInvalid(f"'limit' must be 1 to {ITEMS_MAX}, got {limit}")
    order = requests.single(query, "order") or "desc"
    if order not in ("asc", "desc"):
        raise RequestInvalid(f"'order' must be asc or desc, got {order[:40]!r}")
    return Window(
        after=requests.single(query, "after") or None,
        limit=ITEMS_DEFAULT if limit is None else limit,
        is_ascending=order == "asc",
    )


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, node: NodeDep, response_id: str) -> Response:
    """Stops the generation and keeps what there is; an ended response stays as it is."""
    found = await _retained(request, node, response_id)
    ref = found.record.ref
    with suppress(EpochMismatch):  # a later one of its conversation goes on, so this one has ended
        await stop(node, ref.tenant, ref.conversation_id, epoch=ref.epoch, keep=True)
    return JSONResponse(await shown(node, await whole(node, ref, response_id)))


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, node: NodeDep, response_id: str) -> Response:
    """Stops the generation and evicts the response for good."""
    ref = (await _retained(request, node, response_id)).record.ref
    await stop(node, ref.tenant, ref.conversation_id, epoch=ref.epoch)
    await node.log.erased(ref.tenant, ref.conversation_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


async def _retained(request: Request, node: Node, response_id: str) -> Retained:
    return await retained(node, requests.tenant_of(request), response_id)
