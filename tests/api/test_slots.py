"""What the workers' records come to as a list of slots."""

from __future__ import annotations

from node_harness import model, worker

from api.slots import slots
from replay.cluster import SlotRecord, WorkerRecord

BUSY = SlotRecord(
    "t/c/m/1",
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
    assert [one["is_processing"] for one in found] == [True, False, False, False]
    assert [one["id"] for one in slots(workers, "m")] == [0, 1, 3]


def test_a_slot_in_use_tells_how_far_it_is() -> None:
    [used] = slots([worker("w", model("m", slots=1, busy=(BUSY,)))], "")
    assert used["session"] == "t/c/m/1"
    told = [used[f"n_prompt_tokens{part}"] for part in ("", "_processed", "_cache")]
    assert told == [30, 20, 10]
    assert used["next_token"] == [{"has_next_token": True, "n_remain": 12, "n_decoded": 4}]


def test_a_record_tells_its_slots_through_json() -> None:
    record = worker("w", model("m", slots=1, busy=(BUSY,)))
    assert WorkerRecord.from_json(record.to_json()) == record
