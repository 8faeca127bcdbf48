"""OpenAI's Responses."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from api.dialects.openai_responses import RESPONSES, parse
from api.generations import generate
from api.node import NodeDep
from api.preparing import prompt_length
from api.tokens import Asking

router = APIRouter()


@router.post("/v1/responses")
@router.post("/responses", include_in_schema=False)
async def create_response(request: Request, node: NodeDep) -> Response:
    """OpenAI's response, streamed or not."""
    return await generate(request, node, RESPONSES)


@router.post("/v1/responses/input_tokens")
@router.post("/responses/input_tokens", include_in_schema=False)
async def count_response_tokens(request: Request, node: NodeDep) -> Response:
    """How many tokens the prompt of a response has, fit it or not."""
    asking = await Asking.of(request, node)
    asked = parse(asking.body, random_seed=0)
    count = await prompt_length(node, await asking.model(), asked)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})
