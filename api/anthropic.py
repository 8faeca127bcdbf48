"""Anthropic's Messages."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from api.dialects.anthropic_messages import MESSAGES, parse
from api.dialects.as_chat import in_own_words
from api.generations import generate
from api.node import NodeDep
from api.preparing import prompt_length
from api.tokens import Asking

router = APIRouter()


@router.post("/v1/messages")
async def create_message(request: Request, node: NodeDep) -> Response:
    """Anthropic's message, streamed or not."""
    return await generate(request, node, MESSAGES)


@router.post("/v1/messages/count_tokens")
async def count_message_tokens(request: Request, node: NodeDep) -> Response:
    """How many tokens the prompt of a message has, fit it or not."""
    asking = await Asking.of(request, node)
    with in_own_words(MESSAGES.names):
        asked = parse(asking.body, random_seed=0)
        count = await prompt_length(node, await asking.model(), asked)
    return JSONResponse({"input_tokens": count})
