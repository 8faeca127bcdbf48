"""What an operator asks of Redis: which sessions there are, and how one stands. Reads only.

Nothing of an answer's text leaves this module. A live session is found through the watch index,
whatever else Redis holds; what has ended and is retained is found by a bounded scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from replay import keys
from replay.identity import Conversation, SessionRef, decode, encode
from replay.queue import job_id
from replay.records import FINAL_STATES, PROMPT_TOKEN, SUMMARY_FIELDS, SessionRecord, State
from replay.redis_plane import Client, servers, translated

SCAN_PAGE_KEYS = 1000
"""How many keys one SCAN looks at: a reply that does not block Redis for long."""

SCAN_KEYS_MAX = 1_000_000
"""How many keys one listing looks at, other programs' too; then it is not whole."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which sessions are asked for; an empty field means any. ``most``: the newest so many."""

    states: frozenset[State] = frozenset()
    model: str = ""
    tenant: str = ""
    most: int = 50

    @property
    def is_live(self) -> bool:
        """Whether only sessions that have not ended are asked for, so that no scan is needed."""
        return bool(self.states) and not self.states & FINAL_STATES

    def accepts(self, record: SessionRecord, now_ms: int) -> bool:
        """Whether the session is asked for, and not evicted or expired."""
        return (
            (not self.states or record.state in self.states)
            and self.model in ("", record.model)
            and self.tenant in ("", record.tenant)
            and not 0 < record.expires_ms <= now_ms
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """The sessions found: the live ones first, then the newest first.

    ``matched`` is how many there are in all. Not ``is_whole``: there are more keys in Redis than
    were looked at, and so perhaps more retained sessions; the live ones are all there.
    """

    sessions: Sequence[SessionRecord]
    matched: int
    is_whole: bool
    now_ms: int


@dataclass(frozen=True, slots=True)
class Detail:
    """What is known of a session beside its record. Times are milliseconds of Redis's clock.

    ``first_offset`` is where the window begins, ``entries`` how many entries are stored, the end
    included; ``ttl_ms`` is how long Redis keeps the record from now on.
    """

    now_ms: int
    ttl_ms: int
    prompt_token_count: int
    request_bytes: int
    entries: int
    first_offset: int


class Inspector:
    """Questions to the log plane. The client stays its opener's. All raise LogUnavailable."""

    def __init__(self, redis: Client, *, scan_keys_max: int = SCAN_KEYS_MAX) -> None:
        self._client = redis
        self._redis: Any = redis
        self._scan_keys_max = scan_keys_max

    async def sessions(self, query: Query) -> Listing:
        """The sessions asked for; see ``Listing``."""
        async with translated("sessions"):
            shelf = _Shelf(query, await self._now_ms())
            await self._shelve_live(shelf)
            is_whole = query.is_live or await self._shelve_retained(shelf)
        return Listing(shelf.newest(), shelf.matched, is_whole, shelf.now_ms)

    async def live(self, tenant: str) -> int:
        """How many sessions of the tenant have not ended."""
        query = Query(states=frozenset(State) - FINAL_STATES, tenant=tenant, most=1)
        return (await self.sessions(query)).matched

    async def detail(self, record: SessionRecord) -> Detail:
        """How the session stands now."""
        ref = record.ref
        async with translated("detail"), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.pttl(keys.record(ref))
            pipeline.time()  # of the same server, see redis_cluster
            pipeline.hstrlen(keys.record(ref), "prompt")
            pipeline.hstrlen(keys.record(ref), "request")
            pipeline.xlen(keys.stream(ref))
            pipeline.xrange(keys.stream(ref), count=1)
            ttl_ms, time, prompt_bytes, request_bytes, entries, first = await pipeline.execute()
        return Detail(
            now_ms=_ms(time),
            ttl_ms=ttl_ms,
            prompt_token_count=record.prompt_token_count or prompt_bytes // PROMPT_TOKEN.size,
            request_bytes=request_bytes,
            entries=entries,
            first_offset=_start(first, record.end),
        )

    async def request(self, ref: SessionRef) -> str:
        """The generation request's JSON; it holds what the user wrote."""
        async with translated("request"):
            request = await self._redis.hget(keys.record(ref), "request")
        return (request or b"{}").decode("utf-8", "replace")

    async def _now_ms(self) -> int:
        return _ms(await self._redis.time())

    async def _shelve_live(self, shelf: _Shelf) -> None:
        match = f"{encode(shelf.query.tenant)}/*" if shelf.query.tenant else None
        for shard in range(keys.LIVE_SHARDS):
            index = self._redis.zscan_iter(
                keys.live_shard(shard), match=match, count=SCAN_PAGE_KEYS
            )
            watched = [Conversation.from_path(path.decode()) async for path, _ in index]
            for first in range(0, len(watched), SCAN_PAGE_KEYS):
                await self._shelve_current(shelf, watched[first : first + SCAN_PAGE_KEYS])

    async def _shelve_current(self, shelf: _Shelf, watched: Sequence[Conversation]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for conversation in watched:
                pipeline.hmget(keys.route(conversation), "current", "model")
            routes = await pipeline.execute()
        found = [
            SessionRef(conversation.tenant, conversation.id, decode(model.decode()), int(current))
            for conversation, (current, model) in zip(watched, routes, strict=True)
            if current and model
        ]
        await self._shelve(shelf, [keys.record(ref).encode() for ref in found])

    async def _shelve_retained(self, shelf: _Shelf) -> bool:
        """Whether every key was looked at."""
        pattern, looked_at = record_pattern(shelf.query.tenant), 0
        for server in await servers(self._client):
            cursor: int | None = None
            while cursor != 0:
                if looked_at >= self._scan_keys_max:
                    return False
                cursor, found = await server.scan(cursor or 0, pattern, SCAN_PAGE_KEYS)
                await self._shelve(shelf, found)
                looked_at += SCAN_PAGE_KEYS
        return True

    async def _shelve(self, shelf: _Shelf, found: Sequence[bytes]) -> None:
        fresh = shelf.unseen(found)
        if not fresh:
            return
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in fresh:
                pipeline.hmget(key, SUMMARY_FIELDS)
            for values in await pipeline.execute():
                shelf.add(values)


class QueueInspector:
    """Questions to the queue plane. The client stays its opener's."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def rank(self, record: SessionRecord) -> int | None:
        """How many jobs stand before the session's; None: it has none. Raises LogUnavailable."""
        async with translated("queue"):
            rank: int | None = await self._redis.zrank(
                keys.queue(record.model), job_id(record.ref, record.dispatch)
            )
        return rank


def record_pattern(tenant: str) -> str:
    """What SCAN matches the keys of records with: one tenant's, or "" for all tenants'.

    A tenant's encoding has none of the pattern's characters.
    """
    return keys.RECORDS.replace("{*", f"{{{encode(tenant)}:*") if tenant else keys.RECORDS


class _Shelf:
    """The newest sessions met so far. Owned by one listing; SCAN may meet a key twice."""

    def __init__(self, query: Query, now_ms: int) -> None:
        self.query = query
        self.now_ms = now_ms
        self.matched = 0
        self._seen: set[bytes] = set()
        self._kept: list[SessionRecord] = []

    def unseen(self, found: Sequence[bytes]) -> list[bytes]:
        fresh = [key for key in dict.fromkeys(found) if key not in self._seen]
        self._seen.update(fresh)
        return fresh

    def add(self, values: Sequence[bytes | None]) -> None:
        record = SessionRecord.from_summary(values)
        if record is None or not self.query.accepts(record, self.now_ms):
            return
        self.matched += 1
        self._kept.append(record)
        if len(self._kept) > 2 * self.query.most + SCAN_PAGE_KEYS:
            self._kept = self.newest()

    def newest(self) -> list[SessionRecord]:
        self._kept.sort(key=lambda record: (not record.state.is_final, record.created_ms))
        return self._kept[: -self.query.most - 1 : -1]


def _ms(time: tuple[int, int]) -> int:
    seconds, micros = time
    return seconds * 1000 + micros // 1000


def _start(first: Sequence[Any], size: int) -> int:
    """The offset of the first retained byte; ``size`` where no chunk is stored."""
    for entry_id, fields in first:
        end = int(entry_id.split(b"-")[0])
        if b"z" in fields:
            return end - int(fields[b"n"])
        if b"d" in fields:
            return end - len(fields[b"d"])
    return size
