"""``GET /props``: what a page needs to know of the cluster before it asks for anything else."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.build import build_info
from api.node import Node, NodeDep
from replay.log import WINDOW_BYTES_MAX
from replay.request import PING_INTERVAL_S, SamplingParams

router = APIRouter()

SEED_RANDOM = 2**32 - 1

FEATURES = {
    "resume": True,
    "epochs": True,
    "stop_keep": True,
    "lookup": True,
    "tools": False,
    "images": False,
    "reasoning": False,
}


@router.get("/props")
async def props(node: NodeDep, model: str = "") -> dict[str, Any]:
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
        "workers": picture.workers,
        "total_slots": chosen.slots if chosen else 0,
        "default_generation_settings": {
            "params": _default_params(),
            "n_ctx": chosen.context_tokens if chosen else 0,
        },
        "ui_settings": ui_settings,
        "webui_settings": ui_settings,
        "features": FEATURES,
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
    names = [name for name in SamplingParams.__slots__ if name != "__weakref__"]
    return {**{name: getattr(sampling, name) for name in names}, "max_tokens": -1, "n_predict": -1}
