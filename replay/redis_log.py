"""The session log in Redis: one script call each, see ``scripts/``.

The routing of a name to a session is read here (``resolve``), in one round trip over the few
conversations that the name may mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

from replay import frames, keys
from replay.blocks import Block
from replay.errors import (
    EpochMismatch,
    IntentMismatch,
    LineFull,
    OffsetExpired,
    SessionExpired,
    SessionNotFound,
    StoppedMeanwhile,
)
from replay.identity import SEPARATOR, Conversation, SessionRef, candidates, decode, encode
from replay.limits import (
    INTENT_S,
    LINE_MAX,
    LIVE_S,
    PAGE_BYTES_MAX,
    PAGE_ENTRIES_MAX,
    PLACE_S,
    ROUTE_S,
    TOMBSTONE_MS,
)
from replay.log_values import (
    Append,
    AppendResult,
    AppendStatus,
    Ask,
    Attached,
    Busy,
    Doubt,
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
    State,
    pack_tokens,
)
from replay.redis_disk import DISK_S
from replay.redis_leases import RedisLeases
from replay.redis_plane import clock_ms, servers, translated
from replay.redis_scripts import Call, flat, ms, script

DOUBT_FIELDS = ("doubt", "doubt_end", "doubts")
LOOKUP_SESSIONS_MAX = 1000
"""How many sessions one name of a lookup may find."""


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
        call = _open_call(new, arrived_ms, nonce, if_busy)
        return _opened(new, await self._plane.call(call))

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
        replies = await self._plane.call_all([_append_call(append) for append in appends])
        return [_append_result(reply) for reply in replies]

    async def read(self, ref: SessionRef, offset: int, *, bytes_max: int = PAGE_BYTES_MAX) -> Page:
        key, limit = keys.stream(ref), offset + bytes_max
        async with translated("read"), self._redis.pipeline(transaction=False) as pipeline:
            # What follows the limit is asked first: if there is anything, the rest is complete.
            pipeline.execute_command("XRANGE", key, f"({limit}", "+", "COUNT", 1)
            pipeline.execute_command("XRANGE", key, f"({offset}", limit, "COUNT", PAGE_ENTRIES_MAX)
            pipeline.hmget(keys.record(ref), *DOUBT_FIELDS)
            beyond, entries, doubt = await pipeline.execute()
        entries, is_full = entries or [], len(entries or ()) >= PAGE_ENTRIES_MAX
        chunks: list[Chunk | Block] = []
        end: End | None = None
        for entry in starmap(_entry, entries if is_full else [*entries, *(beyond or ())]):
            if isinstance(entry, End):
                end = entry
            elif not chunks or entry.start == chunks[-1].end:  # else compacted since it was asked
                chunks.append(entry)
        if chunks:
            if chunks[0].start > offset:
                raise OffsetExpired(offset, chunks[0].start)
            chunks[0] = chunks[0].cut(offset)
        more = is_full or bool(beyond and end is None)
        return Page(chunks, end, _doubt(doubt), more)

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
        calls = [_lookup_call(Conversation(tenant, name)) for name in dict.fromkeys(names)]
        found: dict[SessionRef, SessionRecord] = {}
        for name, rows in zip(dict.fromkeys(names), await self._plane.call_all(calls), strict=True):
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
            reply = await self._plane.call(_stop_call(conversation, epoch, keep, reason))
            if reply[0] == b"mismatch":
                raise EpochMismatch(epoch or 0, int(reply[1]))
            if reply[0] != b"none":
                return _stopped(conversation, reply)
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
        return _pulse(await self._plane.call(_pulse_call(Ask(ref, silence_ms, comment))))

    async def pulses(self, asks: Sequence[Ask]) -> list[Pulse | Exception | None]:
        replies = await self._plane.call_all([_pulse_call(ask) for ask in asks])
        return [reply if isinstance(reply, Exception) else _pulse(reply) for reply in replies]

    async def run_id(self) -> str:
        """Names this start of Redis; of a Redis Cluster, that of all its masters."""
        async with translated("run"):
            found = [await one.info("server") for one in await servers(self._client)]
        return " ".join(sorted(str(info["run_id"]) for info in found))

    async def ping(self) -> None:
        """Raises LogUnavailable where Redis does not answer, or says that it is down."""
        async with translated("ping"):
            await self._redis.ping()


def _entry(entry_id: bytes, pairs: Any) -> Chunk | Block | End:
    """One element of a stream; redis-py gives its fields in one list, or as a dict."""
    found = dict(zip(pairs[::2], pairs[1::2], strict=True)) if isinstance(pairs, list) else pairs
    if b"end" in found:
        return End.from_json(found[b"end"])
    end = int(entry_id.split(b"-")[0])
    if b"z" in found:
        return Block(end, int(found[b"n"]), found[b"z"])
    return Chunk(end, found[b"d"])


def _means(name: str, conversation: Conversation, model: str) -> bool:
    return name in (conversation.id, conversation.id + SEPARATOR + model)


def _open_call(new: NewSession, arrived_ms: float, nonce: str, if_busy: IfBusy) -> Call:
    conversation = new.conversation
    touched = [keys.route(conversation), keys.conversations(conversation), keys.line(conversation)]
    if new.idempotency_key:
        touched.append(keys.intent(conversation, new.idempotency_key))
    full = conversation.id + SEPARATOR + new.model
    markers = {keys.stopped(conversation, name) for name in (conversation.id, new.name, full)}
    args: tuple[str | bytes | int, ...] = (
        keys.stem(conversation),
        encode(conversation.id),
        encode(new.model),
        f"{arrived_ms:.3f}",
        nonce,
        ms(LIVE_S),
        _route_ms(new),
        frames.end_comment(State.STOPPED, "replaced"),
        if_busy,
        new.queue_number,
        ms(PLACE_S),
        LINE_MAX,
        new.request_sha256,
        ms(INTENT_S),
        len(markers),
        *sorted(markers),
        *flat(new.to_fields()),
    )
    return Call(script("open"), tuple(touched), args)


def _route_ms(new: NewSession) -> int:
    """Nobody comes back to a plain session, nor to an idempotency key after its day."""
    is_passing = new.owner or new.conversation.is_keyed
    return ms(LIVE_S + new.retention_s if is_passing else ROUTE_S)


def _opened(new: NewSession, reply: Sequence[Any]) -> Opened | Attached | Busy:
    conversation = new.conversation
    what, *rest = (value.decode() for value in reply)
    if what == "stopped":
        raise StoppedMeanwhile(new.name)
    if what == "mismatch":
        raise IntentMismatch(new.idempotency_key)
    if what == "full":
        raise LineFull(new.name)
    if what == "attached":
        return Attached(conversation, int(rest[0]))
    if what == "busy":
        return Busy(_session(conversation, *rest))
    ref = SessionRef(conversation.tenant, conversation.id, new.model, int(rest[0]))
    epoch, model, dispatch = rest[2:]
    return Opened(ref, int(rest[1]), _session(conversation, epoch, model), int(dispatch or 0))


def _session(conversation: Conversation, epoch: str, model: str) -> SessionRef | None:
    if not epoch:
        return None
    return SessionRef(conversation.tenant, conversation.id, decode(model), int(epoch))


def _append_call(append: Append) -> Call:
    ref = append.claim.ref
    args: tuple[str | bytes | int, ...] = (
        keys.session(ref),
        append.claim.attempt,
        append.claim.nonce,
        append.start,
        append.data,
        append.first_token,
        pack_tokens(append.tokens),
        append.window_bytes,
    )
    if append.state is None:
        return Call(script("append"), (keys.record(ref),), args)
    return Call(script("close"), (keys.record(ref),), (*args, append.state, append.reason))


def _append_result(reply: Any) -> AppendResult | Exception:
    if isinstance(reply, Exception):
        return reply
    status = AppendStatus(reply[0].decode())
    if status not in (AppendStatus.APPENDED, AppendStatus.AT):
        return AppendResult(status)
    return AppendResult(status, int(reply[1]), int(reply[2]))


def _pulse_call(ask: Ask) -> Call:
    if ask.silence_ms < 0:
        return Call(script("ask"), (keys.record(ask.ref),), ())
    args = (keys.session(ask.ref), ask.silence_ms, ask.comment)
    return Call(script("pulse"), (keys.record(ask.ref),), args)


def _pulse(reply: Sequence[Any]) -> Pulse | None:
    if reply[0] == b"gone":
        return None
    state, end, last_ms, now_ms = (value.decode() for value in reply[:4])
    return Pulse(State(state), int(end), int(last_ms), int(now_ms), _doubt(reply[4:]))


def _doubt(values: Sequence[bytes | None]) -> Doubt | None:
    """The values of ``DOUBT_FIELDS``; a session without a doubt has none."""
    offset, end, number = (int(value or 0) for value in values)
    return Doubt(offset, end, number) if number else None


def _stop_call(conversation: Conversation, epoch: int | None, keep: bool, reason: str) -> Call:
    args = (
        keys.stem(conversation),
        encode(conversation.id),
        str(epoch) if epoch else "",
        "1" if keep else "",
        reason,
        frames.end_comment(State.STOPPED, reason),
    )
    return Call(script("stop"), (keys.route(conversation),), args)


def _stopped(conversation: Conversation, reply: Sequence[Any]) -> Stopped:
    what, epoch, model, state, reason, size, worker, number, dispatch, lease = (
        value.decode() for value in reply
    )
    return Stopped(
        stopped=what == "stopped",
        ref=SessionRef(conversation.tenant, conversation.id, decode(model), int(epoch)),
        state=State(state),
        reason=reason,
        size=int(size),
        worker=decode(worker),
        queue_number=int(number or 0),
        dispatch=int(dispatch or 0),
        was_claimed=int(lease or 0) > 0,
    )


def _lookup_call(conversation: Conversation) -> Call:
    args: tuple[str | bytes | int, ...] = (
        keys.stem(conversation),
        encode(conversation.id),
        LOOKUP_SESSIONS_MAX,
        *SUMMARY_FIELDS,
    )
    return Call(script("lookup"), (keys.conversations(conversation),), args)
