"""``GET /slots``: what every slot of the cluster does, as its worker said a heartbeat ago."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter, Request

from api import requests
from api.node import NodeDep
from api.problems import NotSupported, Unavailable
from replay.cluster import ModelRecord, SlotRecord, WorkerRecord

router = APIRouter()

Slot = dict[str, Any]

NO_SLOT = "fail_on_no_slot"


@router.get("/slots")
async def list_slots(request: Request, node: NodeDep) -> list[Slot]:
    """The slots of all workers, or of one model."""
    query = requests.query_of(request)
    named, must_be_free = requests.single(query, "model"), requests.parse_flag(query, NO_SLOT)
    model = (await node.catalog.choose(named)).name if named else ""
    found = list(slots(await node.catalog.workers(), model))
    if must_be_free and all(slot["is_processing"] for slot in found):
        raise Unavailable("no slot available", "no slot")
    return found


@router.post("/slots/{slot}")
async def change_slot(slot: str) -> None:
    """501: the cache of a slot is not to be saved, restored or erased by name."""
    raise NotSupported("This server does not support slots action.")


def slots(workers: Iterable[WorkerRecord], model: str) -> Iterator[Slot]:
    """Every slot of every worker, numbered; those of one model where ``model`` names it. Pure."""
    number = 0
    for worker in workers:
        for one in worker.models:
            for slot in _slots_of(one):
                if model in ("", one.name):
                    yield {"id": number, "worker": worker.id, "model": one.name, **slot}
                number += 1


def _slots_of(model: ModelRecord) -> Iterator[Slot]:
    idle = max(0, model.slots - len(model.busy))
    common = {"n_ctx": model.context_tokens, "speculative": False}
    for busy in model.busy:
        yield {**common, "is_processing": True, **_use(busy)}
    for _ in range(idle):
        yield {**common, "is_processing": False}


def _use(slot: SlotRecord) -> Slot:
    left = max(0, slot.max_tokens - slot.tokens) if slot.max_tokens >= 0 else -1
    return {
        "session": slot.session,
        "choice": slot.choice,
        "n_prompt_tokens": slot.prompt_tokens,
        "n_prompt_tokens_processed": slot.prompt_tokens_done,
        "n_prompt_tokens_cache": slot.prompt_tokens_cached,
        "next_token": [{"has_next_token": True, "n_remain": left, "n_decoded": slot.tokens}],
    }
