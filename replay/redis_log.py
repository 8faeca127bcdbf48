"""The session log in Redis: one script call each, see ``scripts/``.

The routing of a name to a session is read here (``resolve``), in one round trip over the few
conversations that the name may mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap

from replay import keys
from replay import redis_calls as calls
from replay.blocks import Block
from replay.errors import (
    EpochMismatch,
    OffsetExpired,
    SessionExpired,
    SessionNotFound,
)
from replay.identity import SEPARATOR, Conversation, SessionRef, candidates, decode
from replay.limits import PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, TOMBSTONE_MS
from replay.log_values import (
    Append,
    AppendResult,
    Ask,
    Attached,
    Busy,
    IfBusy,
    Opened,
    Page,
    Pulse,
    Stopped,
    ThoughtEnd,
)
from replay.records import (
    SUMMARY_FIELDS,
    Chunk,
    End,
    NewSession,
    SessionRecord,
)
from replay.redis_disk import DISK_S
from replay.redis_leases import RedisLeases
from replay.redis_plane import clock_ms, servers, translated
from replay.redis_scripts import Call, ms, script


class RedisLog(RedisLeases):
    """``SessionLog``, ``Leases`` and ``Feed`` over the log plane. The client stays its opener's."""

    async def open(
        self,
        new: NewSession,
        *,
        arrived_ms: float,
        nonce: str,
        if_busy: IfBusy = IfBusy.REPLACE,
    ) -> Opened | Attached | Busy:
        call = calls.open_call(new, arrived_ms, nonce, if_busy)
        return calls.opened(new, await self._plane.call(call))

    async def recall(
        self, conversations: Sequence[Conversation], *, key: str, request_sha256: str
    ) -> Attached | None:
        async with translated("recall"):
            kept = await self._redis.mget([keys.intent(one, key) for one in conversations])
        for conversation, value in zip(conversations, kept, strict=True):
            epoch, _, sha256 = (value or b"::").decode().split(":")
            if sha256 == request_sha256:
                return Attached(conversation, int(epoch))
        return None

    async def leave_line(self, conversation: Conversation, nonce: str) -> None:
        async with translated("leave"), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zrem(keys.line(conversation), nonce)
            pipeline.delete(keys.place(conversation, nonce))
            await pipeline.execute()

    async def clock_ms(self, conversation: Conversation) -> float:
        async with translated("clock"):
            return await clock_ms(self._client, keys.route(conversation))

    async def append(self, appends: Sequence[Append]) -> list[AppendResult | Exception]:
        replies = await self._plane.call_all([calls.append_call(append) for append in appends])
        return [calls.append_result(reply) for reply in replies]

    async def read(self, ref: SessionRef, offset: int, *, bytes_max: int = PAGE_BYTES_MAX) -> Page:
        key, limit = keys.stream(ref), offset + bytes_max
        async with translated("read"), self._redis.pipeline(transaction=False) as pipeline:
            # What follows the limit is asked first: if there is anything, the rest is complete.
            pipeline.execute_command("XRANGE", key, f"({limit}", "+", "COUNT", 1)
            pipeline.execute_command("XRANGE", key, f"({offset}", limit, "COUNT", PAGE_ENTRIES_MAX)
            pipeline.hmget(keys.record(ref), *calls.DOUBT_FIELDS)
            beyond, entries, doubt = await pipeline.execute()
        entries, is_full = entries or [], len(entries or ()) >= PAGE_ENTRIES_MAX
        chunks: list[Chunk | Block] = []
        end: End | None = None
        for entry in starmap(calls.entry, entries if is_full else [*entries, *(beyond or ())]):
            if isinstance(entry, End):
                end = entry
            elif not chunks or entry.start == chunks[-1].end:  # else compacted since it was asked
                chunks.append(entry)
        if chunks:
            if chunks[0].start > offset:
                raise OffsetExpired(offset, chunks[0].start)
            chunks[0] = chunks[0].cut(offset)
        more = is_full or bool(beyond and end is None)
        return Page(chunks, end, calls.doubt(doubt), more)

    async def record(self, ref: SessionRef) -> SessionRecord | None:
        async with translated("record"):
            raw = await self._redis.hgetall(keys.record(ref))
        return SessionRecord.from_fields(raw) if raw.get(b"epoch") else None

    async def tokens(self, ref: SessionRef) -> bytes:
        """The token string of a session, see ``records.unpack_tokens``."""
        async with translated("tokens"):
            return await self._redis.get(keys.tokens(ref)) or b""

    async def resolve(self, tenant: str, name: str, epoch: int | None) -> SessionRecord:
        for conversation, route in await self._routes(tenant, name):
            record = await self._routed(conversation, route, name, epoch)
            if record is not None:
                return record
        raise SessionNotFound(name)

    async def _routes(
        self, tenant: str, name: str
    ) -> list[tuple[Conversation, Mapping[bytes, bytes]]]:
        """The routes that exist among the conversations that the name may mean."""
        conversations = [Conversation(tenant, candidate) for candidate in candidates(name)]
        async with translated("resolve"), self._redis.pipeline(transaction=False) as pipeline:
            for conversation in conversations:
                pipeline.hgetall(keys.route(conversation))
            routes = await pipeline.execute()
        return [pair for pair in zip(conversations, routes, strict=True) if pair[1]]

    async def _routed(
        self, conversation: Conversation, route: Mapping[bytes, bytes], name: str, epoch: int | None
    ) -> SessionRecord | None:
        """The session of this route, None where the name means another conversation."""
        current = int(route.get(b"current") or 0)
        wanted = epoch or current
        model = route.get(b"s:%d" % wanted)
        if model is None:
            if _means(name, conversation, decode(route[b"model"].decode())):
                raise await self._absent(name, conversation, route, epoch)
            return None
        ref = SessionRef(conversation.tenant, conversation.id, decode(model.decode()), wanted)
        async with translated("resolve"):
            values, now = await self._summary(ref)
        record = SessionRecord.from_summary(values)
        if record is None:
            if _means(name, conversation, ref.model):
                raise SessionExpired(name, wanted) if epoch else SessionNotFound(name, "expired")
            return None
        if not record.answers_to(name):
            return None
        if 0 < record.expires_ms <= now:
            raise SessionExpired(name, wanted) if epoch else SessionNotFound(name, "expired")
        return record

    async def _summary(self, ref: SessionRef) -> tuple[list[bytes | None], int]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hmget(keys.record(ref), list(SUMMARY_FIELDS))
            pipeline.time()  # of the same server, see redis_cluster
            values, (seconds, micros) = await pipeline.execute()
        return values, seconds * 1000 + micros // 1000

    async def _absent(
        self, name: str, conversation: Conversation, route: Mapping[bytes, bytes], epoch: int | None
    ) -> Exception:
        """Why the route names no such session: erased, expired, or never given."""
        last = int(route.get(b"epoch") or 0)
        erased = int(route.get(b"erased") or 0)
        if epoch is not None and epoch > last:
            return EpochMismatch(epoch, int(route.get(b"current") or 0))
        if epoch is not None and epoch > erased:
            return SessionExpired(name, epoch)
        async with translated("resolve"):
            now_ms = await clock_ms(self._client, keys.route(conversation))
        if now_ms < int(route.get(b"gone_until_ms") or 0) and route[b"gone_state"]:
            state, reason = route[b"gone_state"].decode(), route[b"gone_reason"].decode()
            return SessionNotFound(name, f"{state} ({reason}) and evicted")
        return SessionNotFound(name)

    async def lookup(self, tenant: str, names: Sequence[str]) -> list[SessionRecord]:
        asked = [calls.lookup_call(Conversation(tenant, name)) for name in dict.fromkeys(names)]
        found: dict[SessionRef, SessionRecord] = {}
        for name, rows in zip(dict.fromkeys(names), await self._plane.call_all(asked), strict=True):
            if isinstance(rows, Exception):
                raise rows
            for row in rows:
                record = SessionRecord.from_summary(row)
                if record and (record.answers_to(name) or record.name.startswith(name + SEPARATOR)):
                    found[record.ref] = record
        return list(found.values())

    async def stop(
        self, tenant: str, name: str, *, epoch: int | None, keep: bool, reason: str
    ) -> Stopped | None:
        # The marker comes first: whichever POST is opened after it sees it, and whichever was
        # opened before it is found by the routes that are read now.
        if epoch is None:
            marker = keys.stopped(Conversation(tenant, name), name)
            await self._plane.call(Call(script("mark"), (marker,), ()))
        for conversation, route in await self._routes(tenant, name):
            if not route.get(b"current"):
                continue
            if not await self._answers(conversation, route, name):
                continue
            reply = await self._plane.call(calls.stop_call(conversation, epoch, keep, reason))
            if reply[0] == b"mismatch":
                raise EpochMismatch(epoch or 0, int(reply[1]))
            if reply[0] != b"none":
                return calls.stopped(conversation, reply)
        return None

    async def end_thought(self, ref: SessionRef) -> ThoughtEnd:
        call = Call(script("end_thought"), (keys.record(ref),), (keys.session(ref),))
        return ThoughtEnd((await self._plane.call(call)).decode())

    async def name_completion(self, completion_id: str, ref: SessionRef, ttl_s: float) -> None:
        async with translated("completion"):
            await self._redis.set(keys.completion(completion_id), ref.path(), px=ms(ttl_s))

    async def completion(self, completion_id: str) -> SessionRef | None:
        async with translated("completion"):
            path = await self._redis.get(keys.completion(completion_id))
        return SessionRef.from_path(path.decode()) if path else None

    async def erased(self, tenant: str, name: str) -> None:
        routes = await self._routes(tenant, name)
        async with translated("erased"):
            now_ms = await clock_ms(self._client, keys.conversations(Conversation(tenant, name)))
        recent_ms = now_ms - ms(DISK_S) + TOMBSTONE_MS
        await self._plane.call_durably(
            [
                Call(script("touch"), (keys.route(conversation),), ())
                for conversation, route in routes
                if int(route.get(b"gone_until_ms") or 0) > recent_ms
            ]
        )

    async def _answers(
        self, conversation: Conversation, route: Mapping[bytes, bytes], name: str
    ) -> bool:
        model = decode(route[b"model"].decode())
        if _means(name, conversation, model):
            return True
        ref = SessionRef(conversation.tenant, conversation.id, model, int(route[b"current"]))
        async with translated("stop"):
            named = await self._redis.hget(keys.record(ref), "name")
        return bool(named is not None and named.decode("utf-8", "replace") == name)

    async def pulse(self, ref: SessionRef, *, silence_ms: int, comment: bytes) -> Pulse | None:
        return calls.pulse(await self._plane.call(calls.pulse_call(Ask(ref, silence_ms, comment))))

    async def pulses(self, asks: Sequence[Ask]) -> list[Pulse | Exception | None]:
        replies = await self._plane.call_all([calls.pulse_call(ask) for ask in asks])
        return [reply if isinstance(reply, Exception) else calls.pulse(reply) for reply in replies]

    async def run_id(self) -> str:
        """Names this start of Redis; of a Redis Cluster, that of all its masters."""
        async with translated("run"):
            found = [await one.info("server") for one in await servers(self._client)]
        return " ".join(sorted(str(info["run_id"]) for info in found))

    async def ping(self) -> None:
        """Raises LogUnavailable where Redis does not answer, or says that it is down."""
        async with translated("ping"):
            await self._redis.ping()


def _means(name: str, conversation: Conversation, model: str) -> bool:
    return name in (conversation.id, conversation.id + SEPARATOR + model)
