"""The session log in Redis: one script call each, see ``scripts/``.

The routing of a name to a session is read here (``resolve``), in one round trip over the few
conversations that the name may mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from replay import frames, keys
from replay.errors import (
    EpochMismatch,
    OffsetExpired,
    SessionExpired,
    SessionNotFound,
    StoppedMeanwhile,
)
from replay.identity import SEPARATOR, Conversation, SessionRef, candidates, decode, encode
from replay.log import (
    ATTEMPTS_MAX,
    LIVE_S,
    PAGE_ENTRIES_MAX,
    PROGRESS_TOKENS,
    ROUTE_S,
    Append,
    AppendResult,
    AppendStatus,
    Ask,
    Claim,
    ClaimResult,
    ClaimStatus,
    Due,
    Look,
    Opened,
    Page,
    Pulse,
    Requeued,
    Stopped,
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
from replay.redis_plane import Plane, translated
from replay.redis_scripts import Call, script

LOOKUP_SESSIONS_MAX = 1000
"""How many sessions one name of a lookup may find."""


class RedisLog:
    """``SessionLog``, ``Leases`` and ``Feed`` over one Redis. The client stays its opener's."""

    def __init__(self, redis: Redis) -> None:
        # redis-py 5's hints say "value or awaitable" for many commands of its asyncio client
        self._redis: Any = redis
        self._plane = Plane(redis)

    async def open(self, new: NewSession, *, validated_ms: int, nonce: str) -> Opened:
        conversation = new.conversation
        full = conversation.id + SEPARATOR + new.model
        markers = {keys.stopped(conversation, n) for n in (conversation.id, new.name, full)}
        retention_ms = round(new.retention_s * 1000)
        route_ms = retention_ms if new.owner else round(ROUTE_S * 1000)
        closing = frames.end_comment(State.STOPPED, "replaced")
        reply = await self._plane.call(
            Call(
                script("open"),
                (keys.route(conversation), keys.conversations(conversation)),
                (
                    keys.stem(conversation),
                    encode(conversation.id),
                    encode(new.model),
                    validated_ms,
                    nonce,
                    _ms(LIVE_S),
                    max(route_ms, _ms(LIVE_S)),
                    closing,
                    len(markers),
                    *sorted(markers),
                    *_flat(new.to_fields()),
                ),
            )
        )
        if reply[0] == b"stopped":
            raise StoppedMeanwhile(new.name)
        ref = SessionRef(conversation.tenant, conversation.id, new.model, int(reply[1]))
        epoch, model, dispatch = (value.decode() for value in reply[3:])
        if not epoch:
            return Opened(ref, int(reply[2]))
        replaced = SessionRef(conversation.tenant, conversation.id, decode(model), int(epoch))
        return Opened(ref, int(reply[2]), replaced, int(dispatch))

    async def append(self, appends: Sequence[Append]) -> list[AppendResult | Exception]:
        replies = await self._plane.call_all([_append_call(append) for append in appends])
        return [_append_result(reply) for reply in replies]

    async def read(self, ref: SessionRef, offset: int) -> Page:
        key = keys.stream(ref)
        async with translated("read"):
            entries = await self._redis.execute_command(
                "XRANGE", key, f"({offset}", "+", "COUNT", PAGE_ENTRIES_MAX
            )
        chunks: list[Chunk] = []
        end: End | None = None
        for entry_id, pairs in entries or ():
            found = (
                dict(zip(pairs[::2], pairs[1::2], strict=True))
                if isinstance(pairs, list)
                else pairs
            )
            if b"end" in found:
                end = End.from_json(found[b"end"])
            else:
                chunks.append(Chunk(int(entry_id.split(b"-")[0]), found[b"d"]))
        if chunks:
            if chunks[0].start > offset:
                raise OffsetExpired(offset, chunks[0].start)
            chunks[0] = chunks[0].cut(offset)
        return Page(chunks, end)

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
                raise await self._absent(name, route, epoch)
            return None
        ref = SessionRef(conversation.tenant, conversation.id, decode(model.decode()), wanted)
        async with translated("resolve"):
            values, now = await self._summary(ref)
        record = _record(values)
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
            pipeline.time()
            values, (seconds, micros) = await pipeline.execute()
        return values, seconds * 1000 + micros // 1000

    async def _absent(
        self, name: str, route: Mapping[bytes, bytes], epoch: int | None
    ) -> Exception:
        """Why the route names no such session: erased, expired, or never given."""
        last = int(route.get(b"epoch") or 0)
        erased = int(route.get(b"erased") or 0)
        if epoch is not None and epoch > last:
            return EpochMismatch(epoch, int(route.get(b"current") or 0))
        if epoch is not None and epoch > erased:
            return SessionExpired(name, epoch)
        async with translated("resolve"):
            seconds, _ = await self._redis.time()
        if seconds * 1000 < int(route.get(b"gone_until_ms") or 0):
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
                record = _record(row)
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

    async def claim(
        self, ref: SessionRef, *, worker: str, nonce: str, lease_s: float, suspect: bool = True
    ) -> ClaimResult:
        args = (encode(worker), nonce, _ms(lease_s), _ms(LIVE_S), "1" if suspect else "")
        reply = await self._plane.call(Call(script("claim"), (keys.record(ref),), args))
        status = ClaimStatus(reply[0].decode())
        if status is not ClaimStatus.CLAIMED:
            return ClaimResult(status)
        return ClaimResult(status, Claim(ref, worker, int(reply[1]), nonce))

    async def renew(self, claims: Sequence[Claim], lease_s: float) -> list[ClaimStatus | Exception]:
        replies = await self._plane.call_all([_renew_call(claim, lease_s) for claim in claims])
        return [_claim_status(reply) for reply in replies]

    async def watch(self, conversation: Conversation, delay_s: float) -> None:
        await self._plane.call(_watch_call(conversation, _ms(delay_s), ""))

    async def due(self, most: int) -> list[Due]:
        replies = await self._plane.call_all(
            [
                Call(script("due"), (keys.live_shard(shard),), (most,))
                for shard in range(keys.LIVE_SHARDS)
            ]
        )
        found: list[Due] = []
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
            pairs = reply[1:]
            found.extend(
                Due(Conversation.from_path(path.decode()), score.decode())
                for path, score in zip(pairs[::2], pairs[1::2], strict=True)
            )
        return found[:most]

    async def look(self, conversation: Conversation) -> Look | None:
        args = (keys.stem(conversation), encode(conversation.id))
        reply = await self._plane.call(Call(script("look"), (keys.route(conversation),), args))
        if reply[0] == b"none":
            return None
        epoch, model, state, lease, now, created, number, dispatch, owner, dialect, tokens = (
            value.decode() for value in reply
        )
        ref = SessionRef(conversation.tenant, conversation.id, decode(model), int(epoch))
        return Look(
            ref=ref,
            state=State(state),
            lease_until_ms=int(lease),
            now_ms=int(now),
            created_ms=int(created),
            queue_number=int(number),
            dispatch=int(dispatch),
            owner=owner,
            dialect=dialect,
            token_count=int(tokens),
        )

    async def again(self, due: Due, delay_s: float | None) -> None:
        delay = "" if delay_s is None else _ms(delay_s)
        await self._plane.call(_watch_call(due.conversation, delay, due.score))

    async def reap(
        self, look: Look, *, state: State, reason: str, closing: bytes, despite_lease: bool = False
    ) -> bool:
        lease = "" if despite_lease else look.lease_until_ms
        args = (keys.session(look.ref), lease, state, reason, closing)
        return bool(await self._plane.call(Call(script("reap"), (keys.record(look.ref),), args)))

    async def requeue(self, look: Look) -> Requeued:
        return await self._requeue(look.ref, str(look.lease_until_ms), 0, "")

    async def hand_over(self, claim: Claim) -> Requeued:
        return await self._requeue(claim.ref, "", claim.attempt, claim.nonce)

    async def _requeue(self, ref: SessionRef, lease: str, attempt: int, nonce: str) -> Requeued:
        args = (lease, attempt, nonce, PROGRESS_TOKENS, ATTEMPTS_MAX)
        reply = await self._plane.call(Call(script("requeue"), (keys.record(ref),), args))
        dispatch = int(reply[1]) if reply[0] == b"queued" else 0
        return Requeued(dispatch, is_poison=reply[0] == b"poison")

    async def settle(
        self, claims: Sequence[Claim], lease_s: float
    ) -> list[ClaimStatus | Exception]:
        calls = [_renew_call(claim, lease_s) for claim in claims]
        await self._plane.call_durably(calls)
        return await self.renew(claims, lease_s)

    async def redispatch(self, look: Look) -> int:
        call = Call(script("redispatch"), (keys.record(look.ref),), (look.dispatch,))
        return int(await self._plane.call(call))

    async def connection(self) -> int:
        """The server's number of our connection. Only a client with a single one tells the truth
        about what the next calls use."""
        async with translated("connection"):
            return int(await self._redis.client_id())

    async def ping(self) -> None:
        """Raises LogUnavailable where Redis does not answer."""
        async with translated("ping"):
            await self._redis.ping()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _flat(pairs: Mapping[str, str | bytes]) -> list[str | bytes]:
    return [word for pair in pairs.items() for word in pair]


def _record(values: Sequence[bytes | None]) -> SessionRecord | None:
    raw = {
        name.encode(): value
        for name, value in zip(SUMMARY_FIELDS, values, strict=True)
        if value is not None
    }
    return SessionRecord.from_fields(raw) if b"epoch" in raw else None


def _means(name: str, conversation: Conversation, model: str) -> bool:
    return name in (conversation.id, conversation.id + SEPARATOR + model)


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
    has_end = status in (AppendStatus.APPENDED, AppendStatus.AT)
    return AppendResult(status, int(reply[1]) if has_end else 0)


def _pulse_call(ask: Ask) -> Call:
    args = (keys.session(ask.ref), ask.silence_ms, ask.comment)
    return Call(script("pulse"), (keys.record(ask.ref),), args)


def _pulse(reply: Sequence[Any]) -> Pulse | None:
    if reply[0] == b"gone":
        return None
    state, end, last_ms, now_ms = (value.decode() for value in reply)
    return Pulse(State(state), int(end), int(last_ms), int(now_ms))


def _renew_call(claim: Claim, lease_s: float) -> Call:
    token = (claim.attempt, claim.nonce)
    args = (keys.session(claim.ref), *token, _ms(lease_s), _ms(LIVE_S))
    return Call(script("renew"), (keys.record(claim.ref),), args)


def _claim_status(reply: Any) -> ClaimStatus | Exception:
    return reply if isinstance(reply, Exception) else ClaimStatus(reply[0].decode())


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
        state=State(state) if state else State.LOST,
        reason=reason,
        size=int(size),
        worker=decode(worker),
        queue_number=int(number or 0),
        dispatch=int(dispatch or 0),
        was_claimed=int(lease or 0) > 0,
    )


def _watch_call(conversation: Conversation, delay_ms: int | str, seen: str) -> Call:
    return Call(script("watch"), (keys.live(conversation),), (conversation.path(), delay_ms, seen))


def _lookup_call(conversation: Conversation) -> Call:
    args: tuple[str | bytes | int, ...] = (
        keys.stem(conversation),
        encode(conversation.id),
        LOOKUP_SESSIONS_MAX,
        *SUMMARY_FIELDS,
    )
    return Call(script("lookup"), (keys.conversations(conversation),), args)
