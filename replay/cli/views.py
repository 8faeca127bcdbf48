"""Records as rows, fields and JSON: what is shown of each, and under which name. Pure.

JSON uses the record's field names (PROTOCOL.md), times in milliseconds, ids whole. Neither form has
the prompt, the request or any of the answer's text.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from replay.cli import formatting
from replay.cli.output import Column
from replay.cluster import NodeRecord, WorkerRecord
from replay.identity import decode
from replay.inspection import Detail
from replay.log_values import Stopped
from replay.records import SessionRecord

SESSION_COLUMNS = (
    Column("TENANT"),
    Column("CONVERSATION"),
    Column("MODEL"),
    Column("EPOCH", is_number=True),
    Column("STATE"),
    Column("AGE", is_number=True),
    Column("SIZE", is_number=True),
    Column("TOKENS", is_number=True),
    Column("WORKER"),
    Column("ATTEMPT", is_number=True),
)
WORKER_COLUMNS = (
    Column("WORKER"),
    Column("HOST"),
    Column("PID", is_number=True),
    Column("UP", is_number=True),
    Column("STATE"),
    Column("MODEL"),
    Column("STATUS"),
    Column("SLOTS FREE", is_number=True),
    Column("CONTEXT", is_number=True),
    Column("BUILD"),
)
NODE_COLUMNS = (
    Column("NODE"),
    Column("HOST"),
    Column("PID", is_number=True),
    Column("UP", is_number=True),
    Column("STATE"),
    Column("READERS", is_number=True),
    Column("BUILD"),
)
UNSHOWN = ("prompt", "request", "prompt_token_count")


def session_row(record: SessionRecord, now_ms: int, *, full: bool) -> tuple[str, ...]:
    """A session under ``SESSION_COLUMNS``."""
    return (
        record.tenant,
        formatting.shortened(record.conversation, full=full),
        record.model,
        str(record.epoch),
        formatting.state(record.state, record.reason),
        formatting.duration(now_ms - record.created_ms),
        formatting.size(record.end),
        f"{record.token_count:,}",
        decode(record.worker) or "-",
        str(record.attempt),
    )


def session_json(record: SessionRecord) -> dict[str, Any]:
    """A session's record without the large and the private fields."""
    shown = {name: value for name, value in asdict(record).items() if name not in UNSHOWN}
    return {**shown, "worker": decode(record.worker)}


def detail_json(record: SessionRecord, detail: Detail, rank: int | None) -> dict[str, Any]:
    """A session's record, and what is known beside it; ``rank`` as in ``detail_fields``."""
    lease_left_ms = record.lease_until_ms - detail.now_ms if record.lease_until_ms else None
    return {
        **session_json(record),
        **asdict(detail),
        "lease_left_ms": lease_left_ms,
        "queue_rank": rank,
    }


def detail_fields(
    record: SessionRecord, detail: Detail, *, rank: str, full: bool
) -> dict[str, str]:
    """A session's fields for a person, in reading order. ``rank`` is its place in the queue."""
    return {
        **_identity(record, full),
        **_production(record, rank),
        **_log(record, detail),
        **_timeline(record, detail),
    }


def _identity(record: SessionRecord, full: bool) -> dict[str, str]:
    return {
        "tenant": record.tenant,
        "conversation": formatting.shortened(record.conversation, full=full),
        "name": formatting.shortened(record.name, full=full),
        "model": record.model,
        "model sha256": record.model_sha256 or "-",
        "epoch": str(record.epoch),
        "completion id": record.completion_id,
        "id seed": record.id_seed,
        "dialect": record.dialect,
        "idempotency key": formatting.shortened(record.idempotency_key, full=full) or "-",
        "traceparent": record.traceparent or "-",
        "record version": str(record.version),
    }


def _production(record: SessionRecord, rank: str) -> dict[str, str]:
    return {
        "state": formatting.state(record.state, record.reason),
        "queue rank": rank,
        "queue number": str(record.queue_number),
        "dispatches": str(record.dispatch),
        "worker": decode(record.worker) or "-",
        "attempt": str(record.attempt),
        "nonce": record.nonce or "-",
        "owner node": record.owner or "-",
        "redis run id": record.run_id or "-",
    }


def _log(record: SessionRecord, detail: Detail) -> dict[str, str]:
    return {
        "prompt": f"{detail.prompt_token_count:,} tokens",
        "prefill chunk": f"{record.prefill_chunk_tokens:,} tokens",
        "request": formatting.size(detail.request_bytes),
        "size": f"{record.end:,} bytes",
        "window from": f"{detail.first_offset:,}",
        "entries": f"{detail.entries:,}",
        "compacted to": f"{record.packed_bytes:,} bytes" if record.packed_bytes else "-",
        "tokens": f"{record.token_count:,}",
        "doubt from": f"{record.doubt:,}" if record.doubt >= 0 else "-",
        "ping interval": f"{record.ping_interval_s}s" if record.ping_interval_s >= 0 else "never",
        "retention": formatting.duration(record.retention_ms),
    }


def _timeline(record: SessionRecord, detail: Detail) -> dict[str, str]:
    now_ms = detail.now_ms
    left_ms = record.lease_until_ms - now_ms
    overdue = f"expired {formatting.duration(-left_ms)} ago"
    lease = f"{left_ms / 1000:.1f}s left" if left_ms > 0 else overdue
    return {
        "created": formatting.moment(record.created_ms, now_ms),
        "claimed": f"attempt {record.attempt}" if record.attempt else "not yet",
        "lease": lease if record.lease_until_ms else "-",
        "last byte": formatting.moment(record.last_ms if record.end else 0, now_ms),
        "ended": formatting.moment(record.ended_ms, now_ms),
        "expires": formatting.moment(record.expires_ms, now_ms),
        "redis keeps": formatting.duration(detail.ttl_ms),
    }


def stop_json(stopped: Stopped, *, evicted: bool) -> dict[str, Any]:
    """What a stop came to. ``stopped``: whether it was this one that ended the session."""
    return {
        "tenant": stopped.ref.tenant,
        "conversation": stopped.ref.conversation_id,
        "model": stopped.ref.model,
        "epoch": stopped.ref.epoch,
        "state": stopped.state,
        "reason": stopped.reason,
        "end": stopped.size,
        "stopped": stopped.stopped,
        "evicted": evicted,
    }


def stop_line(stopped: Stopped, *, evicted: bool) -> str:
    """The same in one line."""
    state = formatting.state(stopped.state, stopped.reason)
    was = "" if stopped.stopped else "was already "
    fate = "evicted" if evicted else "kept until its retention ends"
    return f"{was}{state}: epoch {stopped.ref.epoch}, {stopped.size:,} bytes, {fate}"


def worker_rows(worker: WorkerRecord, now_ms: int) -> list[tuple[str, ...]]:
    """A worker under ``WORKER_COLUMNS``: a row for each of its models."""
    head = _alive(worker, now_ms)
    return [
        (
            *head,
            model.name,
            f"{model.status} {model.progress:.0%}" if model.status == "loading" else model.status,
            f"{model.slots_free}/{model.slots}",
            f"{model.context_tokens:,}",
            worker.build,
        )
        for model in worker.models
    ] or [(*head, "-", "-", "-", "-", worker.build)]


def node_row(node: NodeRecord, now_ms: int) -> tuple[str, ...]:
    """A node under ``NODE_COLUMNS``."""
    return (*_alive(node, now_ms), f"{node.readers:,}", node.build)


def _alive(member: WorkerRecord | NodeRecord, now_ms: int) -> tuple[str, ...]:
    return (
        member.id,
        member.host,
        str(member.pid),
        formatting.duration(now_ms - member.started_ms),
        "draining" if member.draining else "up",
    )
