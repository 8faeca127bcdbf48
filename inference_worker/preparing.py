"""Answers *prepare*: what needs the template or the vocabulary, without a slot.

What the model must compute for (``embedding``), and orders about slots (``slot_orders``), come by
other lists, to another ``Preparing``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from redis.asyncio import Redis

from inference_worker import thoughts
from inference_worker.adapters import applied
from inference_worker.constraining import grammar_of
from inference_worker.embedding import embedded, reranked
from inference_worker.engine import Engine, EngineError, PromptInvalid
from inference_worker.infill import infill_tokens, missing_tokens
from inference_worker.tools import Syntax, syntax_of
from replay import keys
from replay.errors import LogUnavailable
from replay.outage import Outage
from replay.prepare import (
    QUESTION_TTL_S,
    Answer,
    Asked,
    Chat,
    Completion,
    Detokenize,
    Embed,
    Piece,
    Prepared,
    Question,
    Refused,
    Render,
    Rerank,
    Result,
    Text,
    Tokenize,
    Tokenized,
    Unknown,
)
from replay.redis_plane import translated
from replay.request import AnswerFormat, LogitBias, Prompt
from replay.slot_order import SlotOrder

WAIT_S = 2.0
"""How long one BLPOP waits; shorter than the client's socket timeout."""

RETRY_S = 0.5

logger = logging.getLogger(__name__)


class Preparing:
    """One worker's answers to one kind of list. Owned by the task that awaits ``run``."""

    def __init__(
        self,
        redis: Redis,
        engines: Mapping[str, Engine],
        result_of: Callable[[Engine, Asked], Result],
        *,
        list_of: Callable[[str], str] = keys.prepare,
    ) -> None:
        self._redis: Any = redis
        self._engines = engines
        self._result_of = result_of
        self._list_of = list_of

    async def run(self) -> None:
        """Answers until it is cancelled, also after Redis was away."""
        outage = Outage(logger, "prepare waits")
        while True:
            try:
                await self._next()
                outage.is_over()
            except LogUnavailable as error:
                outage.goes_on(error)
                await asyncio.sleep(RETRY_S)

    async def _next(self) -> None:
        lists = [self._list_of(model) for model in self._engines]
        async with translated("prepare"):
            popped = await self._redis.blpop(lists, WAIT_S)
        if popped is None:
            return
        try:
            question = Question.from_json(popped[1])
            engine = self._engines[question.model]
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("a question that cannot be read: %r", error)
            return
        try:
            text = await asyncio.to_thread(self._answer, engine, question)
        except asyncio.CancelledError:
            await self._put_back(*popped)
            raise
        inbox = keys.inbox(question.node)
        async with translated("prepare"), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(inbox, text)
            pipeline.expire(inbox, QUESTION_TTL_S)
            await pipeline.execute()

    async def _put_back(self, asked_in: bytes, question: bytes) -> None:
        """Leaves to another worker what this one, told to end, has begun; it is the next."""
        async with translated("prepare"), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.lpush(asked_in, question)
            pipeline.expire(asked_in, QUESTION_TTL_S)
            await pipeline.execute()

    def _answer(self, engine: Engine, question: Question) -> str:
        result: Result
        try:
            result = self._result_of(engine, question.asked)
        except Exception as error:  # one question must not end all sessions of this worker
            logger.exception("prepare failed")
            result = Refused("engine", f"this cannot be prepared: {error}")
        return Answer(question.id, result).to_json()


def result_of(engine: Engine, asked: Asked) -> Result:
    """What a question is answered with, or why there can be no answer to it."""
    try:
        match asked:
            case Chat() | Completion():
                return prepared(engine, asked)
            case Render():
                return Text(engine.prompt_text(asked.messages, asked.options))
            case Tokenize():
                return tokenized(engine, asked)
            case Detokenize():
                return detokenized(engine, asked)
            case Embed():
                return embedded(engine, asked)
            case Rerank():
                return reranked(engine, asked)
            case Unknown(kind) | SlotOrder(action=kind):
                return Refused("unknown", f"this worker does not know how to {kind}")
    except PromptInvalid as error:
        return Refused("invalid", str(error), param=error.field)
    except EngineError as error:
        return Refused("engine", str(error))


def prepared(engine: Engine, asked: Chat | Completion) -> Prepared | Refused:
    """The prompt's tokens, where they leave room for an answer. Raises EngineError."""
    if not engine.model.generates:
        return Refused("unsupported", "This model can only embed and rank, it answers nothing")
    if isinstance(asked, Completion) and asked.infill and (why := missing_tokens(engine.model.fim)):
        return Refused("unsupported", why)
    prompts = prompts_of(engine, asked)
    limit = engine.model.context_tokens
    longest = max(map(len, prompts))
    if longest >= limit:
        message = (
            f"request ({longest} tokens) exceeds the available context size "
            f"({limit} tokens), try increasing it"
        )
        return Refused("context", message, prompt_tokens=longest, context_tokens=limit)
    try:
        biases = tuple(_token_biases(engine, asked.logit_bias))
    except ValueError as error:
        return Refused("invalid", str(error), param="logit_bias")
    form = with_calls(engine, asked, with_thoughts(engine, asked))
    form = replace(form, end_tokens=engine.model.end_tokens)
    grammar = grammar_of(engine.model, asked, form)
    form = replace(form, begun=grammar.begun if form.tools else "")
    return Prepared(
        tuple(chain.from_iterable(prompts)),
        engine.prefill_chunk_tokens,
        engine.model.sha256 or "",
        biases,
        form,
        prompts=() if isinstance(asked, Chat) else tuple(_text(engine, one) for one in prompts),
        prompt_lengths=tuple(map(len, prompts)),
        grammar=grammar.text,
        grammar_triggers=grammar.triggers,
        shift_at=engine.model.context_tokens if engine.model.shifts_context else 0,
        adapters=applied(engine.model.adapters, asked.lora),
    )


def prompts_of(engine: Engine, asked: Chat | Completion) -> list[list[int]]:
    """The tokens of each prompt; a chat has one. Raises EngineError."""
    if isinstance(asked, Chat):
        prompts, field = [engine.prompt_tokens(asked.messages, asked.options)], "messages"
    elif asked.infill is not None:
        prompts, field = [infill_tokens(engine, asked.infill)], "prompt"
    else:
        prompts, field = [_tokens(engine, prompt) for prompt in asked.prompts], "prompt"
    if not all(prompts):
        raise PromptInvalid("the prompt is empty", field)
    return prompts


def _tokens(engine: Engine, prompt: Prompt) -> list[int]:
    """The model's own beginning stands before a text, never before a token."""
    tokens: list[int] = []
    for place, piece in enumerate([prompt] if isinstance(prompt, str) else prompt):
        if isinstance(piece, str):
            tokens += engine.tokenize(piece, add_special=place == 0, parse_special=True)
        elif piece < (count := engine.model.vocabulary_tokens):
            tokens.append(piece)
        else:
            raise PromptInvalid(f"there is no token {piece}, the last one is {count - 1}", "prompt")
    return tokens


def _text(engine: Engine, tokens: Sequence[int]) -> str:
    return b"".join(map(engine.spelling, tokens)).decode("utf-8", "replace")


def with_calls(engine: Engine, asked: Chat | Completion, form: AnswerFormat) -> AnswerFormat:
    """The format of an answer that may have calls, where there are tools. Raises EngineError."""
    if isinstance(asked, Completion) or not asked.options.tools:
        return form
    syntax = syntax_of(engine.model.template_of(asked.options))
    shown = {*form.shown_tokens, *shown_tokens(engine, syntax)}
    return replace(form, tools=syntax.name, shown_tokens=tuple(sorted(shown)))


def shown_tokens(engine: Engine, syntax: Syntax) -> set[int]:
    """The special tokens that the syntax is read by, and that show nothing of themselves."""
    spelled = [engine.tokenize(one, add_special=False, parse_special=True) for one in syntax.shown]
    return {tokens[0] for tokens in spelled if len(tokens) == 1 and not engine.piece(tokens[0])}


def with_thoughts(engine: Engine, asked: Chat | Completion) -> AnswerFormat:
    """The format of an answer that may begin with a thought. Raises EngineError."""
    if isinstance(asked, Completion):
        return AnswerFormat()
    tags = thoughts.tags_of(engine.model.template_of(asked.options))
    if tags is None:
        return AnswerFormat()
    text = engine.prompt_text(asked.messages, asked.options)
    is_open, is_begun = thoughts.thought_state(text, asked.messages, tags)
    begin, end = (
        engine.tokenize(tag, add_special=False, parse_special=True)
        for tag in (tags.begin, tags.end)
    )
    message = engine.tokenize(asked.budget_message, add_special=False, parse_special=False)
    return AnswerFormat(
        tags.begin,
        tags.end,
        content_begin=tags.content,
        is_thought_open=is_open,
        is_thought_begun=is_begun,
        thought_closing=(*message, *end),
        shown_tokens=tuple(sorted({token for token in begin + end if not engine.piece(token)})),
    )


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


def tokenized(engine: Engine, asked: Tokenize) -> Tokenized:
    """A text's tokens. Raises EngineError."""
    tokens = engine.tokenize(
        asked.text, add_special=asked.add_special, parse_special=asked.parse_special
    )
    pieces = [_shown(engine.spelling(token)) for token in tokens] if asked.with_pieces else ()
    return Tokenized(tuple(tokens), tuple(pieces))


def _shown(piece: bytes) -> Piece:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def detokenized(engine: Engine, asked: Detokenize) -> Text | Refused:
    """The text of tokens; what is no valid UTF-8 in it becomes U+FFFD."""
    count = engine.model.vocabulary_tokens
    for index, token in enumerate(asked.tokens):
        if token >= count:
            message = f"there is no token {token}, the last one is {count - 1}"
            return Refused("invalid", message, param=f"tokens[{index}]")
    return Text(_text(engine, asked.tokens))
