"""``GET /props``: what a page needs to know of the cluster before it asks for anything else."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from api.build import build_info
from api.node import Node, NodeDep
from replay.limits import WINDOW_BYTES_MAX
from replay.request import PING_INTERVAL_S, SamplingParams

router = APIRouter()

SEED_RANDOM = 2**32 - 1

FEATURES = {
    "resume": True,
    "epochs": True,
    "stop_keep": True,
    "lookup": True,
    "feed": True,
    "tools": True,
    "reasoning": True,
    "images": False,
}

MODALITIES = {"vision": False, "video": False, "audio": False}
"""What models here take beside text."""


@router.get("/props")
async def props(request: Request, node: NodeDep, model: str = "") -> dict[str, Any]:
    """Settings, limits and features; llama.cpp's keys of a router beside our own."""
    picture = await node.catalog.picture()
    chosen = picture.named(model) if model else next(iter(picture.models), None)
    ui_settings: dict[str, Any] = {}
    return {
        "role": "router",
        "build_info": build_info(),
        "node": node.settings.node,
        "model_alias": chosen.name if chosen and model else "replay-cluster",
        "model_path": "none",
        "max_instances": picture.workers,
        "models_autoload": False,
        "cors_proxy_enabled": False,
        "modalities": MODALITIES,
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": False,
        "workers": picture.workers,
        "total_slots": chosen.slots if chosen else 0,
        "default_generation_settings": {
            "params": _default_params(),
            "n_ctx": chosen.context_tokens if chosen else 0,
        },
        "ui_settings": ui_settings,
        "webui_settings": ui_settings,
        "features": {**FEATURES, "links": bool(request.app.state.signer)},
        "ping": {"interval_s": PING_INTERVAL_S},
        **_limits(node),
    }


def _limits(node: Node) -> dict[str, Any]:
    return {
        "retention_s": node.settings.retention_s,
        "window_bytes": WINDOW_BYTES_MAX,
        "body_bytes_max": node.settings.body_bytes_max,
    }


def _default_params() -> dict[str, Any]:
    sampling = SamplingParams(seed=SEED_RANDOM)
    return {**asdict(sampling), "max_tokens": -1, "n_predict": -1}
