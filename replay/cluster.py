"""Which workers and nodes there are: records that live by heartbeat, on the log plane.

A record that is not renewed for ``HEARTBEAT_TTL_S`` is gone, and with it what it vouched for: a
worker's models, a node's plain sessions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from replay import keys
from replay.adapters import Adapter
from replay.records import known_fields
from replay.redis_plane import Client, Plane, translated
from replay.redis_scripts import Call, script

HEARTBEAT_S = 1.0
HEARTBEAT_TTL_S = 5.0

ModelStatus = Literal["loading", "loaded", "failed", "unloaded", "sleeping"]


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """A slot that is in use. ``session`` is a path; ``max_tokens`` is -1 for no limit, ``slot``
    where a worker of the version before does not tell its number."""

    session: str
    choice: int = 0
    slot: int = -1
    prompt_tokens: int = 0
    prompt_tokens_done: int = 0
    prompt_tokens_cached: int = 0
    tokens: int = 0
    max_tokens: int = -1

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> SlotRecord:
        """One slot of a worker's record."""
        return cls(**known_fields(cls, raw))


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model as one worker holds it. ``progress`` runs from 0 to 1 while it loads, ``busy`` are
    the slots in use, ``held`` says by slot how many tokens its cache holds for who comes next."""

    name: str
    status: ModelStatus
    aliases: tuple[str, ...] = ()
    progress: float = 0.0
    slots: int = 0
    slots_free: int = 0
    context_tokens: int = 0
    meta: dict[str, Any] | None = None
    busy: tuple[SlotRecord, ...] = ()
    held: tuple[int, ...] = ()
    adapters: tuple[Adapter, ...] = ()

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ModelRecord:
        """One model of a worker's record."""
        read = {
            "aliases": tuple(raw.get("aliases", ())),
            "held": tuple(raw.get("held", ())),
            "busy": tuple(SlotRecord.from_dict(slot) for slot in raw.get("busy", ())),
            "adapters": tuple(Adapter.from_dict(one) for one in raw.get("adapters", ())),
        }
        return cls(**known_fields(cls, {**raw, **read}))


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker. ``started_ms`` is its own clock's, for people only."""

    id: str
    host: str
    pid: int
    started_ms: int
    build: str
    models: tuple[ModelRecord, ...] = ()
    draining: bool = False

    def to_json(self) -> str:
        """As the heartbeat writes it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> WorkerRecord:
        """The inverse of ``to_json``; unknown fields are ignored."""
        raw = json.loads(text)
        models = tuple(ModelRecord.from_dict(model) for model in raw.pop("models", ()))
        return cls(**known_fields(cls, {**raw, "models": models}))


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One API node. ``readers`` is how many streams it serves."""

    id: str
    host: str
    pid: int
    started_ms: int
    build: str
    readers: int = 0
    draining: bool = False

    def to_json(self) -> str:
        """As the heartbeat writes it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> NodeRecord:
        """The inverse of ``to_json``; unknown fields are ignored."""
        return cls(**known_fields(cls, json.loads(text)))


class Directory:
    """Reads and writes the records. The client stays its opener's."""

    def __init__(self, redis: Client) -> None:
        self._redis: Any = redis
        self._plane = Plane(redis)

    async def beat_worker(self, worker: WorkerRecord) -> None:
        """Renews a worker's record. Raises LogUnavailable."""
        await self._beat(keys.workers(), keys.worker(worker.id), worker.id, worker.to_json())

    async def beat_node(self, node: NodeRecord) -> None:
        """Renews a node's record. Raises LogUnavailable."""
        await self._beat(keys.nodes(), keys.node(node.id), node.id, node.to_json())

    async def leave_worker(self, worker_id: str) -> None:
        """Takes a worker out at once, on a clean end."""
        await self._leave(keys.workers(), keys.worker(worker_id), worker_id)

    async def leave_node(self, node_id: str) -> None:
        """Takes a node out at once, on a clean end."""
        await self._leave(keys.nodes(), keys.node(node_id), node_id)

    async def workers(self) -> list[WorkerRecord]:
        """The workers that live, by id."""
        found = await self._living(keys.workers(), keys.worker)
        return [WorkerRecord.from_json(text) for text in found]

    async def nodes(self) -> list[NodeRecord]:
        """The nodes that live, by id."""
        found = await self._living(keys.nodes(), keys.node)
        return [NodeRecord.from_json(text) for text in found]

    async def has_node(self, node_id: str) -> bool:
        """Whether the node lives."""
        async with translated("has_node"):
            return bool(await self._redis.exists(keys.node(node_id)))

    async def serves(self, model: str) -> bool:
        """Whether any living worker has that model, in whatever status."""
        return any(known.name == model for w in await self.workers() for known in w.models)

    async def _beat(self, index: str, key: str, member: str, text: str) -> None:
        ttl_ms = round(HEARTBEAT_TTL_S * 1000)
        replies = await self._plane.call_all(
            [
                Call(script("beat"), (key,), (text, ttl_ms)),
                Call(script("enroll"), (index,), (member, 10 * ttl_ms)),
            ]
        )
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply

    async def _leave(self, index: str, key: str, member: str) -> None:
        async with translated("leave"), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.delete(key)
            pipeline.zrem(index, member)
            await pipeline.execute()

    async def _living(self, index: str, key_of: Any) -> Sequence[bytes]:
        async with translated("living"):
            members = await self._redis.zrange(index, 0, -1)
            if not members:
                return []
            ids = sorted(member.decode() for member in members)
            async with self._redis.pipeline(transaction=False) as pipeline:
                for member in ids:
                    pipeline.get(key_of(member))
                return [text for text in await pipeline.execute() if text is not None]
