"""What is shown of each record, and what never is."""

from __future__ import annotations

from dataclasses import fields

from replay.cli import views
from replay.cluster import ModelRecord, NodeRecord, WorkerRecord
from replay.identity import SessionRef
from replay.inspection import Detail
from replay.log_values import Stopped
from replay.records import SessionRecord, State

NOW_MS = 1_700_000_000_000
RECORD = SessionRecord(
    tenant="default",
    conversation="a long conversation",
    name="a long conversation::m",
    model="m",
    epoch=7,
    request="secret",
    state=State.RUNNING,
    attempt=2,
    worker="gpu%2F1",
    lease_until_ms=NOW_MS + 2500,
    created_ms=NOW_MS - 60_000,
    last_ms=NOW_MS - 1000,
    end=2048,
    token_count=1234,
    idempotency_key="a long idempotency key",
)
DETAIL = Detail(NOW_MS, 86_400_000, 30, 6, 5, 100)


def test_a_row_has_a_cell_for_each_column() -> None:
    row = views.session_row(RECORD, NOW_MS, full=False)
    assert dict(zip([c.title for c in views.SESSION_COLUMNS], row, strict=True)) == {
        "TENANT": "default",
        "CONVERSATION": "a long c…",
        "MODEL": "m",
        "EPOCH": "7",
        "STATE": "running",
        "AGE": "60s",
        "SIZE": "2.0 KiB",
        "TOKENS": "1,234",
        "WORKER": "gpu/1",
        "ATTEMPT": "2",
    }
    assert views.session_row(RECORD, NOW_MS, full=True)[1] == "a long conversation"


def test_json_has_every_field_of_the_record_but_the_large_and_private_ones() -> None:
    shown = views.session_json(RECORD)
    every = {item.name for item in fields(SessionRecord)}
    assert every - set(shown) == {"prompt", "request", "prompt_token_count"}
    assert (shown["conversation"], shown["worker"]) == ("a long conversation", "gpu/1")
    detailed = views.detail_json(RECORD, DETAIL, None)
    assert (detailed["prompt_token_count"], detailed["request_bytes"]) == (30, 6)
    assert detailed["lease_left_ms"] == 2500


def test_a_person_sees_ids_shortened_and_the_timeline() -> None:
    shown = views.detail_fields(RECORD, DETAIL, rank="-", full=False)
    assert not any("a long conversation" in value for value in shown.values())
    assert not any("a long idempotency" in value for value in shown.values())
    assert shown["lease"] == "2.5s left"
    assert shown["claimed"] == "attempt 2"
    assert shown["last byte"].endswith("(1s ago)")
    assert (shown["ended"], shown["expires"]) == ("-", "-")
    full = views.detail_fields(RECORD, DETAIL, rank="-", full=True)
    assert full["name"] == "a long conversation::m"


def test_an_expired_lease_says_for_how_long() -> None:
    later = Detail(NOW_MS + 12_500, 1, 0, 0, 0, 0)
    assert views.detail_fields(RECORD, later, rank="-", full=False)["lease"] == "expired 10s ago"


def test_a_stop_tells_whether_it_ended_the_session() -> None:
    ref = SessionRef("default", "c", "m", 7)
    stopped = Stopped(True, ref, State.STOPPED, "client", 2048, "w", 1, 1, True)
    line = views.stop_line(stopped, evicted=False)
    assert line == "stopped(client): epoch 7, 2,048 bytes, kept until its retention ends"
    again = Stopped(False, ref, State.COMPLETED, "stop", 0, "w", 1, 1, False)
    assert views.stop_line(again, evicted=True) == (
        "was already completed(stop): epoch 7, 0 bytes, evicted"
    )
    assert views.stop_json(again, evicted=True)["stopped"] is False


def test_a_worker_has_a_row_for_each_model_and_one_without_any() -> None:
    models = (
        ModelRecord("a", "loaded", slots=8, slots_free=3, context_tokens=8192),
        ModelRecord("b", "loading", progress=0.41),
    )
    worker = WorkerRecord("w1", "host", 12, NOW_MS - 5000, "b1", models, draining=True)
    first, second = views.worker_rows(worker, NOW_MS)
    assert first == ("w1", "host", "12", "5s", "draining", "a", "loaded", "3/8", "8,192", "b1")
    assert second[5:7] == ("b", "loading 41%")
    (bare,) = views.worker_rows(WorkerRecord("w2", "host", 13, NOW_MS, "b1"), NOW_MS)
    assert len(first) == len(bare) == len(views.WORKER_COLUMNS)


def test_a_node_has_one_row() -> None:
    row = views.node_row(NodeRecord("n1", "host", 12, NOW_MS, "b1", readers=1200), NOW_MS)
    assert row == ("n1", "host", "12", "0s", "up", "1,200", "b1")
    assert len(row) == len(views.NODE_COLUMNS)
