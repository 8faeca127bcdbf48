"""Answers *prepare*: template and token count for a prompt, without a slot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from inference_worker.engine import Engine, EngineError, PromptInvalid
from replay import keys
from replay.errors import LogUnavailable
from replay.prepare import QUESTION_TTL_S, Answer, Prepared, Question, Refused
from replay.redis_plane import translated
from replay.request import LogitBias

WAIT_S = 2.0
"""How long one BLPOP waits; shorter than the client's socket timeout."""

RETRY_S = 0.5

logger = logging.getLogger(__name__)


class Preparing:
    """One worker's answers. Owned by the task that awaits ``run``."""

    def __init__(
        self, redis: Redis, engines: Mapping[str, Engine], *, prefill_chunk_tokens: int
    ) -> None:
        self._redis: Any = redis
        self._engines = engines
        self._chunk_tokens = prefill_chunk_tokens

    async def run(self) -> None:
        """Answers until it is cancelled, also after Redis was away."""
        away = False
        while True:
            try:
                await self._next()
                away = False
            except LogUnavailable as error:
                if not away:
                    logger.warning("prepare waits: %s", error)
                away = True
                await asyncio.sleep(RETRY_S)

    async def _next(self) -> None:
        lists = [keys.prepare(model) for model in self._engines]
        async with translated("prepare"):
            popped = await self._redis.blpop(lists, WAIT_S)
        if popped is None:
            return
        try:
            question = Question.from_json(popped[1])
            engine = self._engines[question.model]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            logger.warning("a question that cannot be read: %r", error)
            return
        try:
            result = await asyncio.to_thread(prepared, engine, question, self._chunk_tokens)
        except Exception as error:  # one question must not end all sessions of this worker
            logger.exception("prepare failed")
            result = Refused("engine", f"the prompt cannot be prepared: {error}")
        inbox = keys.inbox(question.node)
        async with translated("prepare"), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(inbox, Answer(question.id, result).to_json())
            pipeline.expire(inbox, QUESTION_TTL_S)
            await pipeline.execute()


def prepared(engine: Engine, question: Question, chunk_tokens: int) -> Prepared | Refused:
    """The prompt's tokens, or why there can be no answer to it."""
    limit = engine.model.context_tokens
    try:
        prompt = engine.prompt_tokens(question.messages)
    except PromptInvalid as error:
        return Refused("invalid", str(error), param=error.field)
    except EngineError as error:
        return Refused("engine", str(error))
    if not prompt:
        return Refused("invalid", "the prompt is empty", param="messages")
    if len(prompt) >= limit:
        message = (
            f"request ({len(prompt)} tokens) exceeds the available context size "
            f"({limit} tokens), try increasing it"
        )
        return Refused("context", message, prompt_tokens=len(prompt), context_tokens=limit)
    try:
        biases = tuple(_token_biases(engine, question.logit_bias))
    except ValueError as error:
        return Refused("invalid", str(error), param="logit_bias")
    return Prepared(tuple(prompt), chunk_tokens, engine.model.sha256 or "", biases)


def _token_biases(engine: Engine, biases: Sequence[LogitBias]) -> Iterator[LogitBias]:
    """Each text as its tokens. Raises ValueError for a token that the model does not have."""
    last = engine.model.vocabulary_tokens - 1
    for token, bias in biases:
        if isinstance(token, str):
            for part in engine.tokenize(token, add_special=False, parse_special=False):
                yield part, bias
        elif 0 <= token <= last:
            yield token, bias
        else:
            raise ValueError(f"there is no token {token}, the last one is {last}")
