"""The limits of the session log, each with its unit."""

from __future__ import annotations

WINDOW_BYTES_MAX = 32 * 1024 * 1024
"""The ring: how many of a log's last bytes are retained."""

CHUNK_BYTES_MAX = 64 * 1024
"""The largest entry that a producer appends."""

PAGE_ENTRIES_MAX = 256
"""How many entries one read returns at most, so that no reply blocks Redis for long."""

PAGE_BYTES_MAX = 8 * CHUNK_BYTES_MAX
"""The same in bytes, save one entry: a reader that does not read holds a page."""

LIVE_S = 24 * 3600.0
"""How long a session's keys live without a sign of life; a guard, the reaper is far faster."""

PROGRESS_TOKENS = 16
"""An attempt that added so many tokens did not kill its worker: the suspicion is cleared."""

DEATHS_MAX = 5
"""A session that so many workers died with in all is to blame, whatever it added between."""

TOMBSTONE_MS = 600_000
"""How long a 404 can say what became of an evicted session."""

ROUTE_S = 30 * 24 * 3600.0
"""How long a conversation's last epoch is remembered."""

INTENT_S = 24 * 3600.0
"""How long an idempotency key is remembered, from the opening of its session on."""

PLACE_S = 6.0
"""How long a place in the line is kept without a sign of life."""

LINE_MAX = 1000
"""How many requests may wait for one conversation."""
