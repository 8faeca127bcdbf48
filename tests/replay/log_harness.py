"""What the log's contract is tested with: an adapter's harness, and what its tests often do."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from replay.blocks import Block
from replay.identity import Conversation, SessionRef
from replay.log_values import (
    Append,
    AppendResult,
    Attached,
    Busy,
    Claim,
    ClaimStatus,
    IfBusy,
    Opened,
    Page,
    Restored,
)
from replay.records import NewSession, SessionRecord, State, Token

LEASE_S = 60.0
LIMIT_S = 30.0
REPLACED = b': end {"state":"stopped","reason":"replaced"}\n\n'
STOPPED = b': end {"state":"stopped","reason":"client"}\n\n'


class Harness(Protocol):
    """An adapter and what only its test may do: let time pass."""

    log: Any

    def channels(self, on_message: Any, on_reset: Any) -> AbstractAsyncContextManager[Any]:
        """The adapter's pub/sub side."""

    async def pass_retention(self, ref: SessionRef) -> None:
        """Lets the session's retention pass."""

    async def expire_lease(self, ref: SessionRef) -> None:
        """Lets the lease of the session's producer expire."""

    async def forget(self, conversation: Conversation) -> None:
        """Loses all that is known of the conversation, as a Redis that comes back may."""

    async def forget_session(self, ref: SessionRef) -> None:
        """Loses this session, and keeps what is known of its conversation."""

    async def lose_tail(self, ref: SessionRef, end: int, token_count: int) -> None:
        """Loses what was appended beyond."""

    async def alter(self, ref: SessionRef, **fields: object) -> None:
        """Writes into the record, as nobody does but a log that forgets."""

    async def restart(self, ref: SessionRef) -> None:
        """The session was last known to be whole under another start of the log."""

    async def pass_recovery(self, ref: SessionRef) -> None:
        """Lets the time pass in which a producer that was forgotten may say so."""

    async def expire_place(self, conversation: Conversation, nonce: str) -> None:
        """Lets a place in the line expire."""

    async def expire_intent(self, conversation: Conversation, key: str) -> None:
        """Lets the time pass for which an idempotency key is remembered."""

    async def expire_completion(self, completion_id: str) -> None:
        """Lets the time pass for which a completion id is remembered."""


def new_session(name: str = "c", *, model: str = "m", owner: str = "", **more: Any) -> NewSession:
    """A session as a node would open it."""
    conversation = name.removesuffix("::" + model) or name
    fields: dict[str, Any] = {
        "conversation": Conversation("t", conversation),
        "name": name,
        "model": model,
        "dialect": "openai.chat",
        "request": '{"messages":[]}',
        "prompt": (1, 70000, 3),
        "prefill_chunk_tokens": 128,
        "completion_id": "chatcmpl-x",
        "id_seed": "seed",
        "retention_s": 7200.0,
        "ping_interval_s": 15,
        "queue_number": 7,
        "owner": owner,
    }
    return NewSession(**{**fields, **more})


async def opened(log: Any, name: str = "c", **more: Any) -> Opened:
    """An opened session, with a nonce of its own."""
    opened.count += 1  # type: ignore[attr-defined]
    nonce = f"nonce-{opened.count}"  # type: ignore[attr-defined]
    result: Opened = await log.open(new_session(name, **more), arrived_ms=math.inf, nonce=nonce)
    return result


opened.count = 0  # type: ignore[attr-defined]


async def asked(
    log: Any, nonce: str, if_busy: IfBusy = IfBusy.REPLACE, name: str = "c", **more: Any
) -> Opened | Attached | Busy:
    """What a POST comes to."""
    new = new_session(name, **more)
    result: Opened | Attached | Busy = await log.open(
        new, arrived_ms=math.inf, nonce=nonce, if_busy=if_busy
    )
    return result


def keyed(key: str = "k", request_sha256: str = "a") -> dict[str, Any]:
    """What a session with an idempotency key is opened with."""
    return {"idempotency_key": key, "request_sha256": request_sha256}


async def claimed(
    log: Any, ref: SessionRef, *, nonce: str = "n", lease_s: float = LEASE_S
) -> Claim:
    """The claim of a worker."""
    result = await log.claim(ref, worker="w1", nonce=nonce, lease_s=lease_s)
    assert result.status is ClaimStatus.CLAIMED
    assert result.claim is not None
    claim: Claim = result.claim
    return claim


async def produced(log: Any, name: str = "c", **more: Any) -> tuple[SessionRef, Claim]:
    """An opened and claimed session."""
    ref = (await opened(log, name, **more)).ref
    return ref, await claimed(log, ref, nonce=f"n{ref.epoch}")


async def append(log: Any, claim: Claim, start: int, data: bytes, **more: Any) -> AppendResult:
    """One append; its result."""
    (result,) = await log.append([Append(claim, start, data, **more)])
    assert isinstance(result, AppendResult)
    return result


async def close(log: Any, claim: Claim, start: int, data: bytes = b"") -> AppendResult:
    """The last append of a completed session."""
    return await append(log, claim, start, data, state=State.COMPLETED, reason="stop")


async def body(log: Any, ref: SessionRef, offset: int = 0) -> bytes:
    """All stored bytes from an offset on, read in pages."""
    found = b""
    while True:
        page: Page = await log.read(ref, offset + len(found))
        found += b"".join(chunk.data for chunk in page.chunks)
        if page.end is not None or not page.chunks:
            return found


async def compacted(log: Any, conversation: Conversation) -> list[SessionRef]:
    """Compacts what has ended, however short it is: each entry becomes a block. What was so."""
    done: list[SessionRef] = []
    for seen in await log.compactable(conversation, settled_s=0, bytes_min=1):
        blocks: list[Block] = []
        while not blocks or blocks[-1].end < seen.end:
            page = await log.read(seen.ref, blocks[-1].end if blocks else seen.first)
            blocks += [Block.of(chunk) for chunk in page.chunks]
        if await log.compact(seen, blocks):
            done.append(seen.ref)
    return done


async def said(log: Any, *pieces: bytes, **more: Any) -> tuple[SessionRecord, Claim]:
    """A claimed session of these pieces, a token for each, and its record as of the claim."""
    ref, claim = await produced(log, **more)
    record = await log.record(ref)
    end = 0
    for number, piece in enumerate(pieces):
        tokens = [Token(number)]
        end = (await append(log, claim, end, piece, first_token=number, tokens=tokens)).end
    return record, claim


async def restored(
    log: Any, claim: Claim, record: SessionRecord, *, start: int = 0, delivered: int | None = None
) -> Restored:
    """What a restoring comes to."""
    result: Restored = await log.restore(
        claim, record, start=start, delivered=delivered, lease_s=LEASE_S
    )
    return result
