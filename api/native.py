"""llama.cpp's own completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.dialects.infill import INFILL
from api.dialects.llama_completion import NATIVE
from api.generations import generate
from api.node import NodeDep

router = APIRouter()


@router.post("/completion")
@router.post("/completions", include_in_schema=False)
async def create_native_completion(request: Request, node: NodeDep) -> Response:
    """llama.cpp's completion of a prompt as it is, streamed or not."""
    return await generate(request, node, NATIVE)


@router.post("/infill")
async def create_infill(request: Request, node: NodeDep) -> Response:
    """llama.cpp's completion of what is missing between two texts, streamed or not."""
    return await generate(request, node, INFILL)
