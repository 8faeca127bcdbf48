"""``/health``: the process is up. ``/ready``: it can serve, so a load balancer may send to it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from api.node import Node, NodeDep
from api.problems import Unavailable
from replay.errors import LogUnavailable

READY_TIMEOUT_S = 1.0

router = APIRouter()


@router.get("/health")
@router.get("/v1/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Always ok; asks nobody."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(node: NodeDep) -> dict[str, str]:
    """Ok where both planes answer in time and the node is not leaving. Else 503."""
    if node.presence.draining:
        raise Unavailable("the node is draining", "draining")
    if not await _is_reachable(node):
        raise Unavailable("Redis does not answer", "redis")
    return {"status": "ok", "node": node.settings.node}


async def _is_reachable(node: Node) -> bool:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await asyncio.gather(node.log.ping(), node.queue.ping())
    except (LogUnavailable, TimeoutError):
        return False
    return True
