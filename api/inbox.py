"""Asks a worker what needs the model, without a session.

Questions go to a list that every worker with the model takes from; answers come to a list of this
node alone. One loop takes them and wakes whoever asked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from typing import Any, Protocol

from redis.asyncio import Redis

from replay import keys
from replay.prepare import QUESTION_TTL_S, Answer, Asked, Computed, Question, Result
from replay.redis_plane import translated
from replay.slot_order import SlotOrder

INBOX_WAIT_S = 2
"""How long one BLPOP waits; shorter than the client's socket timeout."""

logger = logging.getLogger(__name__)


class Preparer(Protocol):
    """What answers for the model's side of a request."""

    async def ask(self, model: str, asked: Asked) -> Result:
        """The answer, or why there is none. Raises TimeoutError and LogUnavailable."""
        ...


class Inbox:
    """``Preparer`` over the queue plane. ``run`` must run for as long as anybody asks.

    Owned by the node's event loop; the client stays its opener's.
    """

    def __init__(
        self, redis: Redis, node_id: str, timeout_s: float, computing_timeout_s: float = 60.0
    ) -> None:
        self._redis: Any = redis
        self._node_id = node_id
        self._timeout_s = timeout_s
        self._computing_timeout_s = computing_timeout_s
        self._asked: dict[str, asyncio.Future[Result]] = {}

    async def ask(self, model: str, asked: Asked) -> Result:
        """See ``Preparer``."""
        question = Question(secrets.token_hex(8), self._node_id, model, asked)
        answered: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._asked[question.id] = answered
        key = _list_for(model, asked)
        takes_long = isinstance(asked, Computed | SlotOrder)
        timeout_s = self._computing_timeout_s if takes_long else self._timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._put(key, question, max(QUESTION_TTL_S, math.ceil(timeout_s)))
                return await answered
        except TimeoutError:
            await self._withdraw(key, question)
            raise
        finally:
            del self._asked[question.id]

    async def _put(self, key: str, question: Question, ttl_s: int) -> None:
        async with translated("prepare"), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(key, question.to_json())
            pipeline.expire(key, ttl_s)
            await pipeline.execute()

    async def _withdraw(self, key: str, question: Question) -> None:
        """Takes back what nobody has read in time: a late answer would be work for nobody."""
        async with translated("prepare"):
            await self._redis.lrem(key, 1, question.to_json())

    async def run(self) -> None:
        """Takes answers until it is cancelled. Raises LogUnavailable."""
        while True:
            async with translated("inbox"):
                taken = await self._redis.blpop([keys.inbox(self._node_id)], timeout=INBOX_WAIT_S)
            if taken is not None:
                self._take(taken[1])

    def _take(self, text: bytes) -> None:
        try:
            answer = Answer.from_json(text)
        except (KeyError, TypeError, ValueError):
            logger.warning("an answer in the inbox cannot be read")
            return
        waiting = self._asked.get(answer.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer.result)


def _list_for(model: str, asked: Asked) -> str:
    """The list whose workers can answer."""
    if isinstance(asked, SlotOrder):
        return keys.slots(asked.worker, model)
    return keys.embedding(model) if isinstance(asked, Computed) else keys.prepare(model)
