"""Who produces a session, in Redis: claims and leases, the watch index, what a sweeper does.

The half of ``RedisLog`` that workers and sweepers need; one script call each, see ``scripts/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replay import frames, keys
from replay.blocks import Block
from replay.identity import Conversation, SessionRef, decode, encode
from replay.limits import DEATHS_MAX, INTENT_S, LIVE_S, PROGRESS_TOKENS, ROUTE_S
from replay.log_values import (
    Claim,
    ClaimResult,
    ClaimStatus,
    Compactable,
    Due,
    Look,
    Requeued,
    Restored,
)
from replay.records import SessionRecord, State
from replay.redis_plane import Client, Plane, connections_made, servers, translated
from replay.redis_scripts import Call, flat, ms, script

REWATCH_DELAY_S = 2.0
REWATCHED_FIELDS = ("tenant", "conversation", "state")
SCAN_KEYS = 1000


class RedisLeases:
    """``Leases`` over the log plane. The client stays its opener's."""

    def __init__(self, redis: Client) -> None:
        self._client = redis
        # redis-py 5's hints say "value or awaitable" for many commands of its asyncio client
        self._redis: Any = redis
        self._plane = Plane(redis)

    async def claim(
        self,
        ref: SessionRef,
        *,
        worker: str,
        nonce: str,
        lease_s: float,
    ) -> ClaimResult:
        args = (keys.session(ref), encode(worker), nonce, ms(lease_s), ms(LIVE_S))
        reply = await self._plane.call(Call(script("claim"), (keys.record(ref),), args))
        status = ClaimStatus(reply[0].decode())
        if status is not ClaimStatus.CLAIMED:
            return ClaimResult(status)
        return ClaimResult(status, Claim(ref, worker, int(reply[1]), nonce), reply[2] == b"1")

    async def enter(self, claim: Claim) -> ClaimStatus:
        call = Call(script("enter"), (keys.record(claim.ref),), (claim.attempt, claim.nonce))
        return ClaimStatus((await self._plane.call(call))[0].decode())

    async def renew(self, claims: Sequence[Claim], lease_s: float) -> list[ClaimStatus | Exception]:
        replies = await self._plane.call_all([_renew_call(claim, lease_s) for claim in claims])
        return [_claim_status(reply) for reply in replies]

    async def watch(self, conversation: Conversation, delay_s: float) -> None:
        await self._plane.call(_watch_call(conversation, ms(delay_s), ""))

    async def rewatch(self) -> None:
        async with translated("rewatch"):
            found: list[Any] = await servers(self._client)
            for server in found:
                cursor = -1
                while cursor != 0:
                    cursor, page = await server.scan(
                        max(cursor, 0), match=keys.RECORDS, count=SCAN_KEYS
                    )
                    await self._watch_all(await _live_among(server, page))

    async def _watch_all(self, conversations: Sequence[Conversation]) -> None:
        delay_ms = ms(REWATCH_DELAY_S)
        calls = [_watch_call(conversation, delay_ms, "") for conversation in conversations]
        for reply in await self._plane.call_all(calls):
            if isinstance(reply, Exception):
                raise reply

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
        told = [value.decode() for value in reply]
        epoch, model, state, lease, now, created, number, dispatch, owner, dialect, *more = told
        token_count, ended_ms = more
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
            token_count=int(token_count),
            ended_ms=int(ended_ms),
        )

    async def again(self, due: Due, delay_s: float | None) -> Due | None:
        delay = "" if delay_s is None else ms(delay_s)
        score = await self._plane.call(_watch_call(due.conversation, delay, due.score))
        return Due(due.conversation, score.decode()) if score else None

    async def compactable(
        self, conversation: Conversation, *, settled_s: float, bytes_min: int
    ) -> list[Compactable]:
        args = (keys.stem(conversation), encode(conversation.id), ms(settled_s), bytes_min)
        rows = await self._plane.call(
            Call(script("compactable"), (keys.route(conversation),), args)
        )
        return [_compactable(conversation, row) for row in rows]

    async def compact(self, seen: Compactable, blocks: Sequence[Block]) -> bool:
        args: list[str | bytes | int]
        args = [keys.session(seen.ref), seen.ended_ms, seen.entries, seen.first]
        for block in blocks:
            args += (block.end, block.size, block.packed)
        call = Call(script("compact"), (keys.record(seen.ref),), tuple(args))
        return bool(await self._plane.call(call))

    async def reap(
        self, look: Look, *, state: State, reason: str, closing: bytes, despite_lease: bool = False
    ) -> bool:
        lease = "" if despite_lease else look.lease_until_ms
        args = (keys.session(look.ref), lease, state, reason, closing, "")
        return bool(await self._plane.call(Call(script("reap"), (keys.record(look.ref),), args)))

    async def requeue(self, look: Look) -> Requeued:
        return await self._requeue(look.ref, str(look.lease_until_ms), 0, "")

    async def hand_over(self, claim: Claim) -> Requeued:
        return await self._requeue(claim.ref, "", claim.attempt, claim.nonce)

    async def _requeue(self, ref: SessionRef, lease: str, attempt: int, nonce: str) -> Requeued:
        args = (lease, attempt, nonce, PROGRESS_TOKENS, DEATHS_MAX)
        reply = await self._plane.call(Call(script("requeue"), (keys.record(ref),), args))
        dispatch = int(reply[1]) if reply[0] == b"queued" else 0
        return Requeued(dispatch, is_poison=reply[0] == b"poison")

    async def settle(
        self, claims: Sequence[Claim], lease_s: float
    ) -> list[ClaimStatus | Exception]:
        calls = [_renew_call(claim, lease_s) for claim in claims]
        await self._plane.call_durably(calls)
        return await self.renew(claims, lease_s)

    async def restore(
        self,
        claim: Claim,
        record: SessionRecord,
        *,
        start: int,
        delivered: int | None,
        lease_s: float,
    ) -> Restored:
        ref = claim.ref
        args = (
            keys.session(ref),
            keys.stem(ref.conversation),
            encode(ref.conversation_id),
            encode(ref.model),
            ref.epoch,
            claim.attempt,
            claim.nonce,
            encode(claim.worker),
            ms(lease_s),
            ms(LIVE_S),
            ms(ROUTE_S),
            start,
            "" if delivered is None else delivered,
            frames.end_comment(State.STOPPED, "replaced"),
            record.request_sha256,
            ms(INTENT_S),
            *flat(record.to_fields()),
        )
        conversation = ref.conversation
        touched = [keys.record(ref), keys.route(conversation), keys.conversations(conversation)]
        if record.idempotency_key:
            touched.append(keys.intent(conversation, record.idempotency_key))
        reply = await self._plane.call(Call(script("restore"), tuple(touched), args))
        status = ClaimStatus(reply[0].decode())
        if status is not ClaimStatus.RESTORED:
            return Restored(status)
        return Restored(status, int(reply[1]), int(reply[2]), reply[3] == b"1")

    async def diverge(self, claim: Claim, *, offset: int, closing: bytes) -> None:
        args = (keys.session(claim.ref), "", State.LOST, "log", closing, offset)
        await self._plane.call(Call(script("reap"), (keys.record(claim.ref),), args))

    async def redispatch(self, look: Look) -> int:
        call = Call(script("redispatch"), (keys.record(look.ref),), (look.dispatch,))
        return int(await self._plane.call(call))

    def connection(self) -> int:
        """See ``SweptLog``."""
        return connections_made(self._client)


async def _live_among(server: Any, records: Sequence[bytes]) -> list[Conversation]:
    """The conversations of those records whose sessions have not ended."""
    async with server.pipeline(transaction=False) as pipeline:
        for key in records:
            pipeline.hmget(key, REWATCHED_FIELDS)
        rows = await pipeline.execute()
    return [
        Conversation(tenant.decode(), name.decode())
        for tenant, name, state in rows
        if tenant and name and state and not State(state.decode()).is_final
    ]


def _renew_call(claim: Claim, lease_s: float) -> Call:
    token = (claim.attempt, claim.nonce)
    args = (keys.session(claim.ref), *token, ms(lease_s), ms(LIVE_S))
    return Call(script("renew"), (keys.record(claim.ref),), args)


def _claim_status(reply: Any) -> ClaimStatus | Exception:
    return reply if isinstance(reply, Exception) else ClaimStatus(reply[0].decode())


def _compactable(conversation: Conversation, row: Sequence[bytes]) -> Compactable:
    model, epoch, *extent = (value.decode() for value in row)
    ref = SessionRef(conversation.tenant, conversation.id, decode(model), int(epoch))
    return Compactable(ref, *map(int, extent))


def _watch_call(conversation: Conversation, delay_ms: int | str, seen: str) -> Call:
    return Call(script("watch"), (keys.live(conversation),), (conversation.path(), delay_ms, seen))
