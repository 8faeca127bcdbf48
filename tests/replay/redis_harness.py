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

    async def expire_place(self, conversation: Conversation, nonce: str) -> None:
        assert await self.redis.delete(keys.place(conversation, nonce))

    async def expire_intent(self, conversation: Conversation, key: str) -> None:
        assert await self.redis.delete(keys.intent(conversation, key))
