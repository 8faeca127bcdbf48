"""How a session stands in a queue: its job's name, its score and its life. Pure.

arq is imported elsewhere, once by the nodes and once by the workers; what both must agree on is
here. The score is a counter of the queue plane, not a clock: a node whose clock is wrong would
otherwise hide its jobs for as long (hazards 6.1), and the rank of a score is the exact place in
the queue.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from replay.identity import SessionRef

JOB = "generate"
"""The name of the only job there is; its one argument is the session's path."""

JOB_TTL_S = 24 * 3600
QUEUE_TTL_S = 30 * 24 * 3600
"""How long a queue and its counter live without a new session."""


def job_id(ref: SessionRef, dispatch: int) -> str:
    """Unique for each dispatch: arq refuses an id that it still remembers."""
    return f"{ref.path()}:{dispatch}"


def due_at(queue_number: int) -> datetime:
    """The time whose arq score (Unix milliseconds) is this number, which is at least 1."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=queue_number)
