"""How much of a model's adapters counts where a request names none, for all workers: what somebody
has set by ``POST /lora-adapters``, in the place of what the workers were started with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from replay import keys
from replay.redis_plane import Client, translated

UNUSED_TTL_S = 30 * 24 * 3600
"""Scales that nobody has asked for, for so long, are forgotten."""


class AdapterScales(Protocol):
    """By the SHA-256 of an adapter's file: its place may be another at another worker."""

    async def read(self, model: str) -> Mapping[str, float]:
        """What was set, nothing where nothing was. Raises LogUnavailable."""
        ...

    async def write(self, model: str, scales: Mapping[str, float]) -> None:
        """Sets all of a model's. Raises LogUnavailable."""
        ...


class RedisAdapterScales:
    """On the log plane. The client stays its opener's."""

    def __init__(self, redis: Client) -> None:
        self._redis: Any = redis

    async def read(self, model: str) -> Mapping[str, float]:
        """See ``AdapterScales``."""
        async with translated("adapters"):
            text = await self._redis.getex(keys.adapters(model), ex=UNUSED_TTL_S)
        return {**json.loads(text)} if text else {}

    async def write(self, model: str, scales: Mapping[str, float]) -> None:
        """See ``AdapterScales``."""
        async with translated("adapters"):
            await self._redis.set(keys.adapters(model), json.dumps(scales), ex=UNUSED_TTL_S)
