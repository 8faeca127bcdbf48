"""From a request to the session that answers it: prepare, announce, open, enqueue, or join one.

Nothing of the conversation is touched before everything that can be wrong with the request has
been looked for. Nothing here knows a dialect.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.types import Receive

from api import requests
from api.adapters import with_scales
from api.catalog import Model
from api.connection import Comeback
from api.line import Line
from api.node import Node
from api.preparing import prepare
from api.problems import (
    ConversationBusy,
    SessionEnded,
)
from api.stream_response import SessionHead
from replay import frames
from replay.errors import LogUnavailable, SessionNotFound
from replay.identity import KEYED, Conversation, SessionRef, candidates, conversation_of
from replay.log_values import NOT_BEGUN, Attached, Busy, IfBusy, Opened
from replay.prepare import Prepared
from replay.records import NewSession, SessionRecord, State
from replay.request import Dialect, GenerationRequest

WATCH_DELAY_S = 2.0
"""When a session is looked at first; by then its job is enqueued."""

COMPLETION_S = 24 * 3600.0
"""How long a session that is kept, or may be ordered about, is found by its completion id."""

REFUSAL_S = 600.0
"""How long another one is, so that who orders it about is told why that cannot be."""

OWN = "~"
"""What the conversation of a request without a name begins with; its answer's id follows."""

ID_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, since when, and for which session.

    ``name`` is "" for a plain request; a key alone names a conversation of its own.
    """

    tenant: str
    name: str
    key: str
    if_busy: IfBusy
    arrived_s: float
    place: requests.Place

    @classmethod
    def of(cls, request: Request, name_bytes_max: int) -> Caller:
        """Who has sent this request, just now. Raises RequestInvalid."""
        arrived_s = time.monotonic()
        name, key = requests.header_name(request, name_bytes_max), requests.header_key(request)
        if_busy = requests.parse_if_busy(requests.query_of(request))
        named = name or (KEYED + key if key else "")
        place = requests.header_place(request)
        return cls(requests.tenant_of(request), named, key, if_busy, arrived_s, place)

    def conversation(self, asked: str, model: Model, own: str) -> Conversation:
        """The conversation that the name means; a plain request has its ``own``.

        ``asked`` is the body's word for the model.
        """
        if not self.name:
            return Conversation(self.tenant, own)
        verbatim = Conversation(self.tenant, self.name)
        if verbatim.is_keyed:
            return verbatim
        names = dict.fromkeys((asked, *model.names))
        return Conversation(self.tenant, conversation_of(self.name, filter(None, names)))

    def conversations(self) -> list[Conversation]:
        """All that the name may mean while the model is not known."""
        return [Conversation(self.tenant, one) for one in candidates(self.name)]

    def request_sha256(self, dialect: Dialect, body: bytes) -> str:
        """What two requests under one key are compared by; "" without a key."""
        if not self.key:
            return ""
        told = b"\0".join((dialect.encode(), self.name.encode(), body))
        return hashlib.sha256(told).hexdigest()


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The session that answers a request, opened for it or joined. A plain one ends with it."""

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

    def headers(self, state: str, **more: object) -> dict[str, str]:
        """The headers that name it; its conversation too where the client gave only a key."""
        named = {"X-Conversation-Id": self.name} if self.head.ref.conversation.is_keyed else {}
        return {**named, **self.head.headers(state, **more)}


class Opening:
    """One request's way to its session. Owned by the request's task.

    ``body`` is what the client sent, and ``asked`` what the dialect made of it; the answer's id
    begins with ``id_prefix``.
    """

    def __init__(
        self,
        node: Node,
        caller: Caller,
        asked: GenerationRequest,
        body: bytes,
        receive: Receive,
        *,
        id_prefix: str,
    ) -> None:
        self._node = node
        self._asked = asked
        self._completion_id = id_prefix + _random_id()
        self._own = OWN + self._completion_id
        stays = asked.keep == "generation" and not caller.name
        self._caller = caller = replace(caller, name=self._own) if stays else caller
        self._request_sha256 = caller.request_sha256(asked.dialect, body)
        self._receive = receive
        self._nonce = secrets.token_hex(8)
        self._arrived_ms = 0.0

    async def session(self) -> OpenSession:
        """The session that answers. Raises whatever refuses the request."""
        if (known := await self._recalled()) is not None:
            return known
        model = await self._node.catalog.choose(self._asked.model)
        async with await self._admission(model):
            return await self._begun(model)

    async def _begun(self, model: Model) -> OpenSession:
        prepared = await prepare(
            self._node, model, await with_scales(self._node, model, self._asked)
        )
        new = await self._announced(model, prepared)
        opened = await self._open(new)
        if isinstance(opened, Busy):
            opened = await self._in_turn(new, opened)
        if isinstance(opened, Attached):
            return self._joined(self._same_dialect(await self._record(opened)))
        await self._enqueued(new, opened)
        return self._session(opened.ref, new.completion_id, new.ping_interval_s)

    def _same_dialect(self, record: SessionRecord) -> SessionRecord:
        """Raises ConversationBusy where the client would not understand the session's log."""
        if record.dialect != self._asked.dialect:
            raise ConversationBusy(record.ref.epoch)
        return record

    def _joined(self, record: SessionRecord) -> OpenSession:
        return self._session(record.ref, record.completion_id, record.ping_interval_s)

    def _session(self, ref: SessionRef, completion_id: str, ping_interval_s: int) -> OpenSession:
        head = SessionHead(ref, completion_id, ping_interval_s)
        return OpenSession(head, self._asked, self._caller.name)

    async def _admission(self, model: Model) -> AbstractAsyncContextManager[None]:
        """The block in which a session may be opened; to join a live one nobody needs a place."""
        if self._caller.if_busy is IfBusy.ATTACH and self._caller.name and await self._is_live():
            return nullcontext()
        models = (await self._node.catalog.picture()).models
        return self._node.admission.place(self._caller.tenant, model, models)

    async def _is_live(self) -> bool:
        try:
            record = await self._node.log.resolve(self._caller.tenant, self._caller.name, None)
        except SessionNotFound:
            return False
        return not record.state.is_final

    async def _recalled(self) -> OpenSession | None:
        """What the key has opened before; found without any worker, and decided by no race."""
        if not self._caller.key:
            return None
        attached = await self._node.log.recall(
            self._caller.conversations(),
            key=self._caller.key,
            request_sha256=self._request_sha256,
        )
        if attached is None:
            return None
        record = await self._record(attached)
        return None if (record.state, record.reason) in NOT_BEGUN else self._joined(record)

    async def _announced(self, model: Model, prepared: Prepared) -> NewSession:
        """The session to be, announced before it is opened, so that no crash can lose it."""
        conversation = self._caller.conversation(self._asked.model, model, self._own)
        number, _, self._arrived_ms = await asyncio.gather(
            self._node.queue.next_number(),
            self._node.log.watch(conversation, WATCH_DELAY_S),
            self._arrival_ms(conversation),
        )
        plain = not self._caller.name
        passes = plain and not self._asked.keep
        settings, place = self._node.settings, self._caller.place
        sampling = replace(
            self._asked.sampling,
            logit_bias=prepared.logit_bias,
            grammar=prepared.grammar,
            grammar_triggers=prepared.grammar_triggers,
        )
        request = replace(
            self._asked,
            model=model.name,
            sampling=sampling,
            format=prepared.format,
            prompts=prepared.prompts,
            prompt_lengths=prepared.prompt_lengths,
            adapters=prepared.adapters,
            max_tokens=capped(
                self._asked.max_tokens,
                settings.tokens_max,
                context_tokens=None if prepared.shift_at else model.context_tokens,
            ),
            reasoning=self._asked.reasoning.within(settings.reasoning_budget_tokens),
            constraint=None,
            context=replace(self._asked.context, shift_at=prepared.shift_at),
        )
        return NewSession(
            conversation=conversation,
            name=self._caller.name or conversation.id,
            model=model.name,
            dialect=request.dialect,
            request=request.to_json(),
            prompt=prepared.prompt,
            prefill_chunk_tokens=prepared.prefill_chunk_tokens,
            model_sha256=prepared.model_sha256,
            completion_id=self._completion_id,
            id_seed=secrets.token_hex(16),
            retention_s=settings.plain_retention_s if passes else settings.retention_s,
            ping_interval_s=request.ping_interval_s,
            queue_number=number,
            owner=self._node.id if plain else "",
            idempotency_key=self._caller.key,
            request_sha256=self._request_sha256,
            message_id=place.message_id,
            prefix_content_chars=place.content_chars,
            prefix_reasoning_chars=place.reasoning_chars,
            reasoning_control=request.reasoning.is_controlled,
        )

    async def _arrival_ms(self, conversation: Conversation) -> float:
        """When the request came, by the log's clock, or a moment earlier: no stop may be missed."""
        now_ms = await self._node.log.clock_ms(conversation)
        return now_ms - (time.monotonic() - self._caller.arrived_s) * 1000

    async def _open(self, new: NewSession) -> Opened | Attached | Busy:
        if self._caller.key or self._caller.if_busy is not IfBusy.REPLACE:
            self._node.recovery.check()  # what decides may be what Redis has just forgotten
        return await self._node.log.open(
            new,
            arrived_ms=self._arrived_ms,
            nonce=self._nonce,
            if_busy=self._caller.if_busy,
        )

    async def _in_turn(self, new: NewSession, busy: Busy) -> Opened | Attached:
        """Waits in the line, where the client wants that, until there is an answer."""
        if self._caller.if_busy is IfBusy.REJECT and busy.current is not None:
            raise ConversationBusy(busy.current.epoch)
        opened: Opened | Attached | Busy = busy
        async with Line(self._node, new.conversation, self._nonce, self._receive) as line:
            while isinstance(opened, Busy):
                await line.wait(opened.current)
                # Announced anew: the sweepers forget a conversation whose session has ended.
                await self._node.log.watch(new.conversation, WATCH_DELAY_S)
                opened = await self._open(new)
        return opened

    async def _record(self, attached: Attached) -> SessionRecord:
        """The session that is there already. Raises SessionExpired, SessionEnded."""
        conversation, epoch = attached.conversation, attached.epoch
        try:
            return await self._node.log.resolve(conversation.tenant, conversation.id, epoch)
        except SessionNotFound:
            self._node.recovery.check()
            raise SessionEnded(
                "request cancelled by a stop, which has evicted its session",
                state=State.STOPPED,
                reason="client",
                headers={"X-Stream-Epoch": str(epoch), "X-Stream-State": State.STOPPED},
            ) from None

    async def _announced_anew(self, conversation: Conversation) -> None:
        """Had the opening taken long, a sweeper may have found nothing to watch."""
        with suppress(LogUnavailable):  # it is open: whoever asked for it is told by its log
            await self._node.log.watch(conversation, WATCH_DELAY_S)

    async def _findable(self, new: NewSession, ref: SessionRef) -> None:
        """By the id of its answer. Where that fails it cannot be ordered about, and goes on."""
        is_kept = new.reasoning_control or self._asked.keep
        ttl_s = COMPLETION_S if is_kept else REFUSAL_S
        with suppress(LogUnavailable):
            await self._node.log.name_completion(new.completion_id, ref, ttl_s)

    async def _enqueued(self, new: NewSession, opened: Opened) -> None:
        await asyncio.gather(
            _enqueue(self._node, opened, new.queue_number),
            self._announced_anew(new.conversation),
            self._findable(new, opened.ref),
        )
        if opened.replaced is not None:
            with suppress(LogUnavailable):  # whoever takes the job finds that it has ended
                await self._node.queue.remove(opened.replaced, dispatch=opened.replaced_dispatch)


def capped(max_tokens: int, limit: int, *, context_tokens: int | None) -> int:
    """How many tokens an answer may have; -1 stays where the context is the lower limit.

    ``context_tokens`` is None where the context shifts, and limits nothing. Pure.
    """
    if max_tokens < 0:
        return -1 if context_tokens is not None and context_tokens <= limit else limit
    return min(max_tokens, limit)


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
