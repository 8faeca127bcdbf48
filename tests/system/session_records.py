"""What Redis holds of sessions whose ids no client is told: those of plain requests."""

from __future__ import annotations

from cluster_client import WAIT_S, eventually
from redis import Redis

from deploy.local.cluster import Cluster
from replay import keys
from replay.records import SessionRecord


def asked_with(cluster: Cluster, words: str) -> SessionRecord | None:
    """The record of the session whose request has these words, if there is one."""
    with Redis.from_url(cluster.redis_url) as redis:
        for key in redis.scan_iter(keys.RECORDS, count=1000):
            fields = redis.hgetall(key)
            if words.encode() in fields.get(b"request", b""):
                return SessionRecord.from_fields(fields)
    return None


async def recorded(
    cluster: Cluster, words: str, state: str, limit_s: float = WAIT_S
) -> SessionRecord:
    """That record, once it is in a state."""

    async def in_state() -> SessionRecord | None:
        record = asked_with(cluster, words)
        return record if record is not None and record.state == state else None

    found: SessionRecord = await eventually(in_state, limit_s)
    return found
