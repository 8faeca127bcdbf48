"""What a Redis must be set to, lest sessions vanish without a word: asked once, at start.

Every key of ours has a TTL, so every policy but ``noeviction`` evicts what somebody still reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import ResponseError

from replay.errors import LogUnavailable, RedisUnfit
from replay.redis_cluster import RedisCluster
from replay.redis_plane import Client, servers, translated

NO_EVICTION = "noeviction"
ASK_AGAIN_S = 1.0
START_S = 1.0
"""How long a start waits for the answer; a Redis that is away is asked beside the work."""

OTHER_URLS = {
    "cluster": "is a node of a Redis Cluster: redis+cluster://host:port,... names that",
    "sentinel": "is a sentinel: redis+sentinel://host:port,.../service names what it watches",
}
"""Of servers that are not what their URL says."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """What one server told of itself; "" for what it does not tell."""

    eviction: str
    has_file: bool
    fsync: str
    mode: str = ""

    def refusal(self) -> str:
        """Why nothing may be kept there; "" where it may."""
        if self.mode in OTHER_URLS:
            return OTHER_URLS[self.mode]
        if self.eviction in ("", NO_EVICTION):
            return ""
        return (
            f"evicts keys when its memory is full (maxmemory-policy {self.eviction}), and sessions "
            f"would vanish silently: set maxmemory-policy to {NO_EVICTION}"
        )

    def warnings(self) -> Iterator[str]:
        """What may cost sessions when the server or its machine dies."""
        if not self.eviction:
            yield f"does not tell its maxmemory-policy, which must be {NO_EVICTION}"
        if not self.has_file:
            yield "keeps no append-only file: its restart loses all it holds (set appendonly yes)"
        elif self.fsync == "no":
            yield (
                "leaves its append-only file to the kernel (appendfsync no): "
                "a power cut may lose half a minute"
            )


async def policies_of(plane: Client) -> set[Policy]:
    """Asks all servers of a plane. Raises LogUnavailable."""
    async with translated("policy"):
        asked = await servers(plane)
    found = {await policy_of(server) for server in asked}
    if isinstance(plane, RedisCluster):
        return {replace(policy, mode="") for policy in found}
    return found


async def policy_of(asked: Any) -> Policy:
    """Asks a server. Raises LogUnavailable."""
    async with translated("policy"):
        server = await asked.info("server")
        memory = await asked.info("memory")
        persistence = await asked.info("persistence")
        try:
            config = await asked.config_get("appendfsync")
        except ResponseError:  # a managed one may forbid CONFIG, never INFO
            config = {}
    return Policy(
        eviction=str(memory.get("maxmemory_policy", "")),
        has_file=bool(persistence.get("aof_enabled")),
        fsync=str(config.get("appendfsync", "")),
        mode=str(server.get("redis_mode", "")),
    )


async def check_policies(planes: Mapping[str, Client]) -> None:
    """Returns once each server has answered, however long it is away; warns where it should.

    ``planes`` are named by the setting that chose them. Raises RedisUnfit.
    """
    for setting, redis in planes.items():
        for policy in await _answer(redis):
            if refusal := policy.refusal():
                raise RedisUnfit(setting, refusal)
            for warning in policy.warnings():
                logger.warning("the Redis of %s %s", setting, warning)


async def _answer(plane: Client) -> set[Policy]:
    while True:
        try:
            return await policies_of(plane)
        except LogUnavailable:
            await asyncio.sleep(ASK_AGAIN_S)
