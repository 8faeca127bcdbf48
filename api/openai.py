"""OpenAI's completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.dialects.openai_chat import CHAT
from api.dialects.openai_completions import COMPLETIONS
from api.generations import generate
from api.node import NodeDep

router = APIRouter()


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
async def create_chat_completion(request: Request, node: NodeDep) -> Response:
    """OpenAI's chat completion, streamed or not."""
    return await generate(request, node, CHAT)


@router.post("/v1/completions")
async def create_completion(request: Request, node: NodeDep) -> Response:
    """OpenAI's text completion, streamed or not."""
    return await generate(request, node, COMPLETIONS)
