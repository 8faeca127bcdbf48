"""The harness of ``RedisLog``: time passes by writing into the record."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from replay import keys
from replay.identity import Conversation, SessionRef
from replay.redis_log import RedisLog
from replay.subscription import Subscription


class RedisHarness:
    """A log on a Redis that the test owns."""

    def __init__(self, redis: Redis, url: str) -> None:
        self.redis: Any = redis
        self.url = url
        self.log = RedisLog(redis)

    def channels(self, on_message: Any, on_reset: Any) -> Any:
        return Subscription(self.url, on_message=on_message, on_reset=on_reset).open()

    async def pass_retention(self, ref: SessionRef) -> None:
        await self.redis.hset(keys.record(ref), "expires_ms", "1")

    async def expire_lease(self, ref: SessionRef) -> None:
        await self.redis.hset(keys.record(ref), "lease_until_ms", "1")

    async def forget(self, conversation: Conversation) -> None:
        stem = keys.stem(conversation)
        await self.redis.delete(*[key async for key in self.redis.scan_iter(stem + "*")])

    async def forget_session(self, ref: SessionRef) -> None:
        await self.redis.delete(keys.record(ref), keys.stream(ref), keys.tokens(ref))

    async def lose_tail(self, ref: SessionRef, end: int, token_count: int) -> None:
        stream, tokens = keys.stream(ref), keys.tokens(ref)
        kept = await self.redis.xrange(stream, max=f"{end}-0")
        packed = await self.redis.getrange(tokens, 0, 8 * token_count - 1) if token_count else b""
        await self.redis.delete(stream, tokens)
        for entry, pairs in kept:
            await self.redis.xadd(stream, pairs, id=entry)
        await self.redis.set(tokens, packed)
        await self.alter(ref, end=end, token_count=token_count)

    async def alter(self, ref: SessionRef, **fields: object) -> None:
        mapping = {name: str(value) for name, value in fields.items()}
        await self.redis.hset(keys.record(ref), mapping=mapping)

    async def restart(self, ref: SessionRef) -> None:
        await self.alter(ref, run_id="another")

    async def pass_recovery(self, ref: SessionRef) -> None:
        await self.alter(ref, other_ms=1)

    async def expire_place(self, conversation: Conversation, nonce: str) -> None:
        assert await self.redis.delete(keys.place(conversation, nonce))

    async def expire_intent(self, conversation: Conversation, key: str) -> None:
        assert await self.redis.delete(keys.intent(conversation, key))

    async def expire_completion(self, completion_id: str) -> None:
        assert 0 < await self.redis.pttl(keys.completion(completion_id)) <= 60_000
        assert await self.redis.delete(keys.completion(completion_id))
