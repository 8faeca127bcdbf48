"""Which models the cluster offers: the workers' records, merged. Knows no HTTP route."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from api.problems import RequestInvalid, Unavailable
from replay.adapters import Adapter
from replay.cluster import ModelRecord, ModelStatus, WorkerRecord

CACHE_S = 0.5
"""How old the picture of the cluster may be."""

BEST_FIRST: tuple[ModelStatus, ...] = ("loaded", "sleeping", "loading", "unloaded", "failed")
"""Of several workers' word on one model, the first of these counts."""


class Neighbours(Protocol):
    """Who knows the workers; ``replay.cluster.Directory`` does."""

    async def workers(self) -> list[WorkerRecord]:
        """The workers that live. Raises LogUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """One model over all workers. ``progress`` is 0 to 1; slots are sums."""

    name: str
    status: ModelStatus
    aliases: tuple[str, ...]
    progress: float
    slots: int
    slots_free: int
    context_tokens: int
    created_s: int
    meta: Mapping[str, Any]
    adapters: tuple[Adapter, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a client may use for it."""
        return (self.name, *self.aliases)


@dataclass(frozen=True, slots=True)
class Picture:
    """The cluster at one moment."""

    models: tuple[Model, ...] = ()
    workers: int = 0

    def named(self, name: str) -> Model | None:
        """The model with this name or alias."""
        return next((model for model in self.models if name in model.names), None)


def merged(workers: Iterable[WorkerRecord]) -> Picture:
    """The workers' records as one picture. Pure."""
    workers = tuple(workers)
    held: dict[str, list[tuple[WorkerRecord, ModelRecord]]] = {}
    for worker in workers:
        for model in worker.models:
            held.setdefault(model.name, []).append((worker, model))
    return Picture(tuple(_merge(held[name]) for name in sorted(held)), len(workers))


def _merge(held: list[tuple[WorkerRecord, ModelRecord]]) -> Model:
    records = sorted((model for _, model in held), key=lambda m: BEST_FIRST.index(m.status))
    best = records[0]
    return Model(
        name=best.name,
        status=best.status,
        aliases=tuple(sorted({alias for record in records for alias in record.aliases})),
        progress=max(record.progress for record in records),
        slots=sum(record.slots for record in records),
        slots_free=sum(record.slots_free for record in records),
        context_tokens=best.context_tokens,
        created_s=min(worker.started_ms for worker, _ in held) // 1000,
        meta=best.meta or {},
        adapters=best.adapters,
    )


class Catalog:
    """A picture of the cluster that is at most ``CACHE_S`` old. Owned by the node's event loop."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._lock = asyncio.Lock()
        self._picture = Picture()
        self._taken_s = float("-inf")

    async def picture(self) -> Picture:
        """The cluster now. Raises LogUnavailable."""
        async with self._lock:
            if time.monotonic() - self._taken_s > CACHE_S:
                self._picture = merged(await self._neighbours.workers())
                self._taken_s = time.monotonic()
            return self._picture

    async def workers(self) -> list[WorkerRecord]:
        """The workers as they are now, by id. Raises LogUnavailable."""
        return sorted(await self._neighbours.workers(), key=lambda worker: worker.id)

    def forget(self) -> None:
        """The next picture is taken anew."""
        self._taken_s = float("-inf")

    async def choose(self, name: str) -> Model:
        """The model that a request means; with a single one it need not name it.

        Raises RequestInvalid, Unavailable where there is no worker, and LogUnavailable.
        """
        picture = await self.picture()
        if not picture.models:
            raise Unavailable("no worker is there", "no worker")
        model = picture.named(name)
        if model is None and not name and len(picture.models) == 1:
            model = picture.models[0]
        if model is None and not name:
            raise RequestInvalid("model name is missing from the request")
        if model is None:
            raise RequestInvalid(f"model '{name[:100]}' not found")
        if model.status == "failed":
            raise Unavailable(f"model '{model.name}' could not be loaded", "load")
        return model

    async def is_loading(self, name: str) -> bool:
        """Whether every worker that has the model is still loading it. Raises LogUnavailable."""
        model = (await self.picture()).named(name)
        return model is not None and model.status == "loading"
