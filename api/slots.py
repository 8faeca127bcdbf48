"""The slots of the cluster: what each does, as its worker said a heartbeat ago; and its KV cache,
which that worker saves to a file, restores from one, or erases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

from api import requests
from api.json_body import parse_object
from api.node import Node, NodeDep
from api.preparing import answered
from api.problems import RequestInvalid, Unavailable
from replay.cluster import ModelRecord, SlotRecord, WorkerRecord
from replay.slot_order import (
    ACTIONS,
    ERASE,
    RESTORE,
    SAVE,
    SlotChanged,
    SlotOrder,
    is_file_name,
)

router = APIRouter()

Slot = dict[str, Any]

NO_SLOT = "fail_on_no_slot"

NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A slot: its number over all workers, where it is, and who has it."""

    id: int
    worker: str
    model: ModelRecord
    slot: int
    busy: SlotRecord | None

    def named(self) -> Slot:
        """As clients are told of it."""
        return {"worker": self.worker, "model": self.model.name}


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


@router.post("/slots/{id_slot}")
async def change_slot(request: Request, node: NodeDep, id_slot: str) -> Slot:
    """Has the worker of a slot save, restore or erase what its cache holds."""
    node.presence.check_open()
    action = requests.single(requests.query_of(request), "action") or ""
    body = await requests.read_body(request, node.settings.body_bytes_max)
    if not NUMBER.fullmatch(id_slot):
        raise RequestInvalid("Invalid slot ID")
    if action not in ACTIONS:
        raise RequestInvalid("Invalid action")
    filename = "" if action == ERASE else _filename(body)
    place = await _place(node, int(id_slot))
    model = await node.catalog.choose(place.model.name)
    order = SlotOrder(place.worker, place.slot, action, filename)
    changed = await answered(node, model, order, SlotChanged)
    return {"id_slot": place.id, **place.named(), **_told(order, changed)}


def _filename(body: bytes) -> str:
    filename = parse_object(body).get("filename")
    if not isinstance(filename, str) or not is_file_name(filename):
        raise RequestInvalid("Invalid filename")
    return filename


async def _place(node: Node, number: int) -> Place:
    for place in places(await node.catalog.workers()):
        if place.id == number:
            return place
    raise RequestInvalid("Invalid slot ID")


def _told(order: SlotOrder, changed: SlotChanged) -> Slot:
    """llama.cpp's words for it."""
    if order.action == ERASE:
        return {"n_erased": changed.token_count}
    done, moved = {SAVE: ("saved", "written"), RESTORE: ("restored", "read")}[order.action]
    return {
        "filename": order.filename,
        f"n_{done}": changed.token_count,
        f"n_{moved}": changed.file_bytes,
        "timings": {f"{order.action}_ms": changed.took_ms},
    }


def places(workers: Iterable[WorkerRecord]) -> Iterator[Place]:
    """Every slot of every worker, numbered through. Pure."""
    number = 0
    for worker in workers:
        for model in worker.models:
            busy = _by_slot(model)
            for slot in range(model.slots):
                yield Place(number, worker.id, model, slot, busy.get(slot))
                number += 1


def slots(workers: Iterable[WorkerRecord], model: str) -> Iterator[Slot]:
    """What every slot does; those of one model where ``model`` names it. Pure."""
    for place in places(workers):
        if model in ("", place.model.name):
            yield {"id": place.id, **place.named(), **_state(place)}


def _state(place: Place) -> Slot:
    model, slot = place.model, place.slot
    common = {"n_ctx": model.context_tokens, "speculative": False}
    if place.busy is not None:
        return {**common, "is_processing": True, **_use(place.busy)}
    held = model.held[slot] if slot < len(model.held) else 0
    return {**common, "is_processing": False, "n_prompt_tokens_cache": held}


def _by_slot(model: ModelRecord) -> dict[int, SlotRecord]:
    """Who has which slot; a worker of the version before tells only how many are taken."""
    numbered = {busy.slot: busy for busy in model.busy if busy.slot >= 0}
    others = (slot for slot in range(model.slots) if slot not in numbered)
    unnumbered = (busy for busy in model.busy if busy.slot < 0)
    return {**numbered, **dict(zip(others, unnumbered, strict=False))}


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
