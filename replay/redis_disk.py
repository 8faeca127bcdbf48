"""Whether a server's disk has what was written: its clock tells, since WAITAOF does not.

Redis 7.0 has no WAITAOF, and those of Redis 7.4.0 and of Valkey up to 9.1.2 answer long before the
sync. What ``appendfsync everysec`` does can be known without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

EVERYSEC_S = 1.1
"""Within this after a write ``appendfsync everysec`` begins to sync it, or is still at another."""

CRON_TICK_S = 0.12
"""Within this after a sync it begins the next one: ten times a second it looks."""

SLOW_SYNC_S = 1.0
"""How long a sync is waited for."""

DISK_S = EVERYSEC_S + SLOW_SYNC_S
"""What was written longer ago is on the disk, or the disk is slow."""


async def durability_of(server: Any) -> Mapping[str, str]:
    """How the server keeps what is written, in the words of its configuration."""
    try:
        policy: Mapping[str, str] = await server.config_get("append*", "min-replicas-to-write")
    except ResponseError:  # one that is rented out may keep its configuration to itself
        has_file = (await server.info("persistence")).get("aof_enabled")
        return {"appendonly": "yes" if has_file else "no", "appendfsync": "everysec"}
    return policy


async def synced(server: Any) -> None:
    """Returns once the disk has what was written before, under ``everysec``.

    Raises TimeoutError where the disk is slow.
    """
    await asyncio.sleep(EVERYSEC_S)
    async with asyncio.timeout(SLOW_SYNC_S):
        # Twice: a sync that began before the write may end just before the next begins.
        quiet = 0
        while quiet < 2:
            await asyncio.sleep(CRON_TICK_S)
            told = await server.info("persistence")
            syncs = told.get("aof_pending_bio_fsync") or told.get("aof_buffer_length")
            quiet = 0 if syncs else quiet + 1
