"""``POST /v1/chat/completions``: check, open, enqueue, wait for the first byte, answer.

Nothing of the conversation is touched before everything that can be wrong with the request has
been looked for. With X-Conversation-Id the session outlives its client; without it, it is stopped
when the client leaves (a *plain* session).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request, Response

from api import requests
from api.catalog import Model
from api.connection import Connection
from api.dialects import openai_chat
from api.json_body import parse_object
from api.lasting import Lasting
from api.node import Node, NodeDep
from api.problems import (
    ContextExceeded,
    EngineBroken,
    RequestInvalid,
    SessionEnded,
    Unavailable,
)
from api.stream import stop
from api.stream_response import STREAM_HEADERS, ConnectedResponse, SessionHead, pump, raw
from replay import frames
from replay.errors import EpochMismatch, LogUnavailable, SessionNotFound
from replay.identity import Conversation, SessionRef, conversation_of
from replay.log import Opened
from replay.prepare import Prepared, Refused
from replay.records import Chunk, End, NewSession, State
from replay.request import SEED_MAX, GenerationRequest
from replay.tailer import Tail

WATCH_DELAY_S = 2.0
"""When a session is looked at first; by then its job is enqueued."""

ABANDON_PAUSES_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Between the attempts to stop what nobody waits for, while Redis is away."""

ID_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARACTERS = 32

router = APIRouter()
logger = logging.getLogger(__name__)


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
async def create_chat_completion(request: Request, node: NodeDep) -> Response:
    """OpenAI's chat completion, streamed or not."""
    arrived_s = time.monotonic()
    name = requests.header_name(request)
    body = parse_object(await requests.read_body(request, node.settings.body_bytes_max))
    asked = openai_chat.parse(body, random_seed=secrets.randbelow(SEED_MAX))
    model = await node.catalog.choose(asked.model)
    prepared = await prepare(node, model, asked)
    caller = Caller(requests.tenant_of(request), name, asked.model, arrived_s)
    session = await open_session(node, caller, replace(asked, model=model.name), prepared, model)
    return Lasting(GenerationResponse(node, session))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asked, when, and by which names. ``name`` is "" for a plain request."""

    tenant: str
    name: str
    model: str
    arrived_s: float

    def conversation(self, model: Model) -> Conversation:
        """The conversation that the header names; a plain request is one of its own."""
        if not self.name:
            return Conversation(self.tenant, "~" + secrets.token_hex(16))
        names = dict.fromkeys((self.model, *model.names))
        return Conversation(self.tenant, conversation_of(self.name, filter(None, names)))


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that this request has opened. A plain one ends with its client."""

    head: SessionHead
    request: GenerationRequest
    name: str

    @property
    def is_plain(self) -> bool:
        """Whether nobody can come back to it."""
        return not self.name


async def prepare(node: Node, model: Model, asked: GenerationRequest) -> Prepared:
    """The prompt's tokens. Raises what is wrong with the prompt, and Unavailable."""
    try:
        result = await node.preparer.ask(model.name, asked.messages)
    except TimeoutError:
        if await node.catalog.is_loading(model.name):
            raise Unavailable("Loading model", "loading") from None
        raise Unavailable(f"no worker answers for model '{model.name}'", "no worker") from None
    if isinstance(result, Refused):
        raise _refusal(result)
    return result


def _refusal(refused: Refused) -> Exception:
    if refused.kind == "context":
        return ContextExceeded(refused.message, refused.prompt_tokens, refused.context_tokens)
    if refused.kind == "engine":
        return EngineBroken(refused.message)
    return RequestInvalid(f"Field '{refused.param or 'messages'}': {refused.message}")


async def open_session(
    node: Node, caller: Caller, request: GenerationRequest, prepared: Prepared, model: Model
) -> OpenSession:
    """Announces, opens and enqueues, in this order: no crash in between loses the session.

    Raises StoppedMeanwhile, LogUnavailable, SessionEnded where the queue plane is away.
    """
    conversation = caller.conversation(model)
    number, _ = await asyncio.gather(
        node.queue.next_number(), node.log.watch(conversation, WATCH_DELAY_S)
    )
    new = _new_session(node, caller, conversation, request, prepared, number)
    validated_ms = int((time.monotonic() - caller.arrived_s) * 1000)
    opened = await node.log.open(new, validated_ms=validated_ms, nonce=secrets.token_hex(8))
    head = SessionHead(opened.ref, new.completion_id, request.ping_interval_s)
    # Announced anew: had the opening taken long, a sweeper may have seen nothing and forgotten it.
    await asyncio.gather(
        _enqueue(node, opened, number), node.log.watch(conversation, WATCH_DELAY_S)
    )
    if opened.replaced is not None:
        with suppress(LogUnavailable):  # whoever takes the job finds that the session has ended
            await node.queue.remove(opened.replaced, dispatch=opened.replaced_dispatch)
    return OpenSession(head, request, caller.name)


def _new_session(
    node: Node,
    caller: Caller,
    conversation: Conversation,
    request: GenerationRequest,
    prepared: Prepared,
    number: int,
) -> NewSession:
    plain = not caller.name
    settings = node.settings
    return NewSession(
        conversation=conversation,
        name=caller.name or conversation.id,
        model=request.model,
        dialect=request.dialect,
        request=request.to_json(),
        prompt=prepared.prompt,
        prefill_chunk_tokens=prepared.prefill_chunk_tokens,
        model_sha256=prepared.model_sha256,
        completion_id="chatcmpl-" + _random_id(),
        id_seed=secrets.token_hex(16),
        retention_s=settings.plain_retention_s if plain else settings.retention_s,
        ping_interval_s=request.ping_interval_s,
        queue_number=number,
        owner=node.id if plain else "",
    )


def _random_id() -> str:
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARACTERS))


async def _enqueue(node: Node, opened: Opened, number: int) -> None:
    try:
        await node.queue.enqueue(opened.ref, dispatch=1, number=number)
    except LogUnavailable:
        await _fail(node, opened.ref)
        message = frames.MESSAGES[State.FAILED, "queue"]
        raise SessionEnded(message, state=State.FAILED, reason="queue") from None


async def _fail(node: Node, ref: SessionRef) -> None:
    """Ends a session that has no job. If this fails too, a sweeper finds it and enqueues it."""
    look = await node.log.look(ref.conversation)
    if look is not None and look.ref == ref:
        closing = frames.closing(look.dialect, State.FAILED, "queue")
        await node.log.reap(look, state=State.FAILED, reason="queue", closing=closing)


class FirstBytes:
    """Watches a log's first bytes for what decides the status line. Pure.

    ``is_answer``: something other than keep-alives came. ``error``: it was an error event.
    """

    def __init__(self) -> None:
        self.is_answer = False
        self.error: str | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, in whole frames."""
        for frame in openai_chat.frames_of(data):
            if openai_chat.is_comment(frame):
                continue
            self.error = openai_chat.error_of(frame)
            self.is_answer = self.error is None
            return


@dataclass(slots=True)
class Opening:
    """What came before the status line: bytes, then perhaps the end, or what is awaited next."""

    held: list[Chunk]
    end: End | None = None
    coming: asyncio.Task[Chunk | End] | None = None

    async def aclose(self) -> None:
        """Ends what is awaited, where nobody awaits it any more."""
        if self.coming is not None:
            self.coming.cancel()
            await asyncio.wait([self.coming])


class GenerationResponse(ConnectedResponse):
    """The answer to the POST that opened the session; a plain one ends when its client leaves."""

    __slots__ = ("_has_ended", "_node", "_session")

    def __init__(self, node: Node, session: OpenSession) -> None:
        super().__init__(node.connections)
        self._node = node
        self._session = session
        self._has_ended = False

    async def serve(self, connection: Connection) -> None:
        """Sends the stream, or its fold. Raises SessionEnded where nothing was said."""
        head = self._session.head
        tail = self._node.tailer.tail(head.ref, 0, ping_interval_s=head.ping_interval_s)
        try:
            async with tail as opened:
                if self._session.request.render.stream:
                    await self._stream(connection, opened)
                else:
                    await self._fold(connection, opened)
        finally:
            if self._session.is_plain and not self._has_ended:
                # Not awaited here: Redis may be away, and the client's leaving ends this task.
                self._node.errands.run(abandon(self._node, head.ref))

    async def _stream(self, connection: Connection, tail: Tail) -> None:
        opening = Opening([])
        try:
            await self._await_answer(tail, opening)
            headers = self._named(await self._state(opening), offset=0)
            await connection.start(200, [*STREAM_HEADERS, *headers])
            for chunk in opening.held:
                await connection.body(chunk.data)
            item = await opening.coming if opening.coming else opening.end
        finally:
            await opening.aclose()
        await pump(connection, tail, item)
        self._has_ended = True

    async def _await_answer(self, tail: Tail, opening: Opening) -> None:
        """Takes everything up to the first byte that is no keep-alive, but not for too long."""
        first = FirstBytes()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._node.settings.status_timeout_s
        while not first.is_answer:
            opening.coming = asyncio.create_task(tail.next())
            # Not cancelled at the limit: what it reads must not be lost.
            await asyncio.wait([opening.coming], timeout=max(0.0, until - loop.time()))
            if not opening.coming.done():
                return
            item, opening.coming = opening.coming.result(), None
            if isinstance(item, End):
                self._check(item, first.error)
                opening.end = item
                return
            first.feed(item.data)
            opening.held.append(item)

    async def _fold(self, connection: Connection, tail: Tail) -> None:
        fold = openai_chat.Fold()
        while not isinstance(item := await tail.next(), End):
            fold.feed(item.data)
        self._check(item, fold.error)
        body = frames.compact(fold.answer()).encode()
        headers = raw({"Content-Type": "application/json", "Content-Length": str(len(body))})
        await connection.start(200, [*headers, *self._named(item.state, offset=0)])
        await connection.body(body)
        await connection.finish()

    def _check(self, end: End, error: str | None) -> None:
        """Raises SessionEnded for every end but a completed one."""
        self._has_ended = True
        if end.state is State.COMPLETED:
            return
        message = error or _message_of(end)
        headers = self._session.head.headers(end.state)
        raise SessionEnded(message, state=end.state, reason=end.reason, headers=headers)

    async def _state(self, opening: Opening) -> State:
        if opening.end is not None:
            return opening.end.state
        if opening.coming is None:
            return State.RUNNING
        ref = self._session.head.ref
        pulse = await self._node.log.pulse(ref, silence_ms=-1, comment=b"")
        if pulse is None:
            raise SessionNotFound(ref.conversation_id, "it is gone")
        return pulse.state

    def _named(self, state: State, **more: object) -> list[tuple[bytes, bytes]]:
        return raw(self._session.head.headers(state, **more))


def _message_of(end: End) -> str:
    if end.state is not State.STOPPED:
        return frames.MESSAGES.get((end.state, end.reason), f"{end.state} ({end.reason})")
    if end.reason == "replaced":
        return "request cancelled by a newer request of its conversation"
    return "request cancelled by a stop"


async def abandon(node: Node, ref: SessionRef) -> None:
    """Stops a session that nobody waits for, however long Redis is away (within bounds)."""
    for pause_s in ABANDON_PAUSES_S:
        try:
            await stop(
                node, ref.tenant, ref.conversation_id, epoch=ref.epoch, reason="disconnected"
            )
        except EpochMismatch:
            return
        except LogUnavailable:
            await asyncio.sleep(pause_s)
        else:
            return
    logger.warning("left running, since it could not be stopped: %s", ref.path())
