"""``GET /v1/models``: which models there are and how they are, in llama.cpp's router form."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from api.catalog import Model
from api.node import NodeDep
from api.problems import NothingThere

router = APIRouter()

OWNER = "replay-cluster"


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def list_models(node: NodeDep) -> dict[str, Any]:
    """The models of all living workers."""
    picture = await node.catalog.picture()
    return {"object": "list", "data": [entry(model) for model in picture.models]}


@router.get("/v1/models/{model_id:path}")
@router.get("/models/{model_id:path}", include_in_schema=False)
async def read_model(request: Request, node: NodeDep, model_id: str) -> dict[str, Any]:
    """One of them, by its name or an alias."""
    model = (await node.catalog.picture()).named(model_id)
    if model is None:
        raise NothingThere(request.method, request.url.path)
    return entry(model)


def entry(model: Model) -> dict[str, Any]:
    """One model as the list shows it. Pure."""
    status: dict[str, Any] = {"value": model.status}
    if model.status == "loading":
        status["progress"] = model.progress
    return {
        "id": model.name,
        "aliases": list(model.aliases),
        "tags": [],
        "object": "model",
        "created": model.created_s,
        "owned_by": OWNER,
        "status": status,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "meta": {
            **model.meta,
            "n_ctx": model.context_tokens,
            "slots": model.slots,
            "slots_free": model.slots_free,
        },
    }
