"""``/lora-adapters``: the LoRA adapters of a model, and how much of each counts where a request
names none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from api import requests
from api.catalog import Model
from api.json_body import parse_json
from api.lora import parse_scales
from api.node import Node, NodeDep
from api.problems import RequestInvalid
from replay.adapters import APPLIED_MAX
from replay.request import GenerationRequest

router = APIRouter()


@router.get("/lora-adapters")
async def list_adapters(request: Request, node: NodeDep) -> list[dict[str, Any]]:
    """What the workers have loaded; an adapter's id is its place."""
    model = await _model(request, node)
    given = await _given(node, model)
    return [
        {
            "id": place,
            "path": adapter.path,
            "scale": given.get(adapter.sha256, adapter.scale),
            "task_name": adapter.task_name,
            "prompt_prefix": adapter.prompt_prefix,
        }
        for place, adapter in enumerate(model.adapters)
    ]


@router.post("/lora-adapters")
async def scale_adapters(request: Request, node: NodeDep) -> dict[str, bool]:
    """Sets how much of each counts from now on, at all workers: none of those not named."""
    body = parse_json(await requests.read_body(request, node.settings.body_bytes_max))
    if not isinstance(body, list):
        raise RequestInvalid("Request body must be an array")
    model, wanted = await _model(request, node), dict(parse_scales(body, ""))
    for place in wanted:
        if place >= len(model.adapters):
            raise RequestInvalid(f"there is no adapter {place}")
    if sum(map(bool, wanted.values())) > APPLIED_MAX:
        raise RequestInvalid(f"more than {APPLIED_MAX} adapters at once")
    if model.adapters:
        scales = {
            adapter.sha256: wanted.get(place, 0.0) for place, adapter in enumerate(model.adapters)
        }
        await node.scales.write(model.name, scales)
    return {"success": True}


async def with_scales(node: Node, model: Model, asked: GenerationRequest) -> GenerationRequest:
    """The request with the scales that count where it names none. Raises LogUnavailable."""
    if asked.lora or not (given := await _given(node, model)):
        return asked
    scales = (given.get(adapter.sha256, adapter.scale) for adapter in model.adapters)
    return replace(asked, lora=tuple(enumerate(scales)))


async def _model(request: Request, node: Node) -> Model:
    named = requests.single(requests.query_of(request), "model")
    return await node.catalog.choose(named or "")


async def _given(node: Node, model: Model) -> Mapping[str, float]:
    """The scales that were set. Raises LogUnavailable."""
    return await node.scales.read(model.name) if model.adapters else {}
