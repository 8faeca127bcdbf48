"""From a checked request to an open session: prepare, announce, open, enqueue.

Nothing of the conversation is touched before everything that can be wrong with the request has
been looked for.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass

from api.catalog import Model
from api.connection import Comeback
from api.node import Node
from api.problems import ContextExceeded, EngineBroken, RequestInvalid, SessionEnded, Unavailable
from api.stream_response import SessionHead
from replay import frames
from replay.errors import LogUnavailable
from replay.identity import Conversation, SessionRef, conversation_of
from replay.log import Opened
from replay.prepare import Prepared, Refused
from replay.records import NewSession, State
from replay.request import GenerationRequest

WATCH_DELAY_S = 2.0
"""When a session is looked at first; by then its job is enqueued."""

ID_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARACTERS = 32


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

    @property
    def comeback(self) -> Comeback:
        """How the client goes on where its answer is cut; a fold has told it nothing until then."""
        is_read = self.name and self.request.render.stream
        return Comeback.BY_NAME if is_read else Comeback.NONE


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
