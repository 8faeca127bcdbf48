"""What the workers' records come to as a list of slots, and whom an order about one reaches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from node_harness import NodeHarness, memory_node, model, worker

from api.slots import slots
from replay.cluster import SlotRecord, WorkerRecord
from replay.prepare import Refused
from replay.slot_order import SlotChanged, SlotOrder

BUSY = SlotRecord(
    "t/c/m/1",
    slot=1,
    prompt_tokens=30,
    prompt_tokens_done=20,
    prompt_tokens_cached=10,
    tokens=4,
    max_tokens=16,
)


def test_all_slots_of_all_workers_are_numbered_through() -> None:
    workers = [
        worker("w1", model("m", slots=2, busy=(BUSY,)), model("n", slots=1)),
        worker("w2", model("m", slots=1)),
    ]
    found = list(slots(workers, ""))
    assert [(one["id"], one["worker"], one["model"]) for one in found] == [
        (0, "w1", "m"),
        (1, "w1", "m"),
        (2, "w1", "n"),
        (3, "w2", "m"),
    ]
    assert [one["is_processing"] for one in found] == [False, True, False, False]
    assert [one["id"] for one in slots(workers, "m")] == [0, 1, 3]


def test_a_slot_in_use_tells_how_far_it_is() -> None:
    [_, used] = slots([worker("w", model("m", slots=2, busy=(BUSY,)))], "")
    assert used["session"] == "t/c/m/1"
    told = [used[f"n_prompt_tokens{part}"] for part in ("", "_processed", "_cache")]
    assert told == [30, 20, 10]
    assert used["next_token"] == [{"has_next_token": True, "n_remain": 12, "n_decoded": 4}]


def test_a_record_tells_its_slots_through_json() -> None:
    record = worker("w", model("m", slots=2, busy=(BUSY,), held=(3, 0)))
    assert WorkerRecord.from_json(record.to_json()) == record


def test_a_free_slot_tells_what_its_cache_holds() -> None:
    records = [
        worker("w", model("m", slots=3, busy=(BUSY,), held=(256, 0, 0)), model("n", slots=1))
    ]
    held = [one.get("n_prompt_tokens_cache") for one in slots(records, "")]
    assert held == [256, BUSY.prompt_tokens_cached, 0, 0]


def test_a_worker_of_the_version_before_tells_only_how_many_are_in_use() -> None:
    unnumbered = (replace(BUSY, slot=-1), BUSY, replace(BUSY, slot=-1))
    found = slots([worker("w", model("m", slots=4, busy=unnumbered))], "")
    assert [one["is_processing"] for one in found] == [True, True, True, False]


@pytest.fixture
async def harness() -> AsyncIterator[NodeHarness]:
    """A node beside two workers, of which the second has another model too."""
    async with memory_node() as node:
        node.workers.records = [
            worker("w1", model("m", slots=2)),
            worker("w2", model("n", slots=1), model("m", slots=2)),
        ]
        node.preparer.result = SlotChanged(256, 4096, 1.5)
        yield node


WHERE = {"id_slot": 4, "worker": "w2", "model": "m"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("save", {"n_saved": 256, "n_written": 4096, "timings": {"save_ms": 1.5}}),
        ("restore", {"n_restored": 256, "n_read": 4096, "timings": {"restore_ms": 1.5}}),
    ],
)
async def test_an_order_goes_to_the_worker_that_has_the_slot(
    harness: NodeHarness, action: str, told: dict[str, Any]
) -> None:
    answer = await harness.http.post(f"/slots/4?action={action}", json={"filename": "x"})
    assert answer.json() == {**WHERE, "filename": "x", **told}
    assert harness.preparer.asked == [("m", SlotOrder("w2", 1, action, "x"))]


@pytest.mark.anyio
async def test_to_erase_needs_no_body(harness: NodeHarness) -> None:
    answer = await harness.http.post("/slots/4?action=erase")
    assert answer.json() == {**WHERE, "n_erased": 256}
    assert harness.preparer.asked == [("m", SlotOrder("w2", 1, "erase"))]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("refused", "status", "kind"),
    [
        (Refused("busy", "the slot is in use"), 503, "unavailable_error"),
        (Refused("unsupported", "no folder"), 501, "not_supported_error"),
        (Refused("invalid", "damaged", param="filename"), 400, "invalid_request_error"),
        (Refused("engine", "No space left on device"), 500, "server_error"),
    ],
)
async def test_what_a_worker_refuses_is_told(
    harness: NodeHarness, refused: Refused, status: int, kind: str
) -> None:
    harness.preparer.result = refused
    answer = await harness.http.post("/slots/0?action=save", json={"filename": "x"})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, kind)
    assert refused.message in error["message"]
    assert ("retry-after" in answer.headers) == (status == 503)
