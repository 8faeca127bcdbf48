"""The scripts of the log: what they are called with, and what their replies mean. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replay import frames, keys
from replay.blocks import Block
from replay.errors import (
    IntentMismatch,
    LineFull,
    StoppedMeanwhile,
)
from replay.identity import SEPARATOR, Conversation, SessionRef, decode, encode
from replay.limits import INTENT_S, LINE_MAX, LIVE_S, PLACE_S, ROUTE_S
from replay.log_values import (
    Append,
    AppendResult,
    AppendStatus,
    Ask,
    Attached,
    Busy,
    Doubt,
    IfBusy,
    Opened,
    Pulse,
    Stopped,
)
from replay.records import (
    SUMMARY_FIELDS,
    Chunk,
    End,
    NewSession,
    State,
    pack_tokens,
)
from replay.redis_scripts import Call, flat, ms, script

DOUBT_FIELDS = ("doubt", "doubt_end", "doubts")
LOOKUP_SESSIONS_MAX = 1000
"""How many sessions one name of a lookup may find."""


def entry(entry_id: bytes, pairs: Any) -> Chunk | Block | End:
    """One element of a stream; redis-py gives its fields in one list, or as a dict."""
    found = dict(zip(pairs[::2], pairs[1::2], strict=True)) if isinstance(pairs, list) else pairs
    if b"end" in found:
        return End.from_json(found[b"end"])
    end = int(entry_id.split(b"-")[0])
    if b"z" in found:
        return Block(end, int(found[b"n"]), found[b"z"])
    return Chunk(end, found[b"d"])


def open_call(new: NewSession, arrived_ms: float, nonce: str, if_busy: IfBusy) -> Call:
    """Opens a session, or finds which one answers instead."""
    conversation = new.conversation
    touched = [keys.route(conversation), keys.conversations(conversation), keys.line(conversation)]
    if new.idempotency_key:
        touched.append(keys.intent(conversation, new.idempotency_key))
    full = conversation.id + SEPARATOR + new.model
    markers = {keys.stopped(conversation, name) for name in (conversation.id, new.name, full)}
    args: tuple[str | bytes | int, ...] = (
        keys.stem(conversation),
        encode(conversation.id),
        encode(new.model),
        f"{arrived_ms:.3f}",
        nonce,
        ms(LIVE_S),
        _route_ms(new),
        frames.end_comment(State.STOPPED, "replaced"),
        if_busy,
        new.queue_number,
        ms(PLACE_S),
        LINE_MAX,
        new.request_sha256,
        ms(INTENT_S),
        len(markers),
        *sorted(markers),
        *flat(new.to_fields()),
    )
    return Call(script("open"), tuple(touched), args)


def _route_ms(new: NewSession) -> int:
    """Nobody comes back to a plain session, nor to an idempotency key after its day."""
    is_passing = new.owner or new.conversation.is_keyed
    return ms(LIVE_S + new.retention_s if is_passing else ROUTE_S)


def opened(new: NewSession, reply: Sequence[Any]) -> Opened | Attached | Busy:
    """What came of it. Raises StoppedMeanwhile, IntentMismatch and LineFull."""
    conversation = new.conversation
    what, *rest = (value.decode() for value in reply)
    if what == "stopped":
        raise StoppedMeanwhile(new.name)
    if what == "mismatch":
        raise IntentMismatch(new.idempotency_key)
    if what == "full":
        raise LineFull(new.name)
    if what == "attached":
        return Attached(conversation, int(rest[0]))
    if what == "busy":
        return Busy(_session(conversation, *rest))
    ref = SessionRef(conversation.tenant, conversation.id, new.model, int(rest[0]))
    epoch, model, dispatch = rest[2:]
    return Opened(ref, int(rest[1]), _session(conversation, epoch, model), int(dispatch or 0))


def _session(conversation: Conversation, epoch: str, model: str) -> SessionRef | None:
    if not epoch:
        return None
    return SessionRef(conversation.tenant, conversation.id, decode(model), int(epoch))


def append_call(append: Append) -> Call:
    """Appends, and closes the log where the append is its last."""
    ref = append.claim.ref
    args: tuple[str | bytes | int, ...] = (
        keys.session(ref),
        append.claim.attempt,
        append.claim.nonce,
        append.start,
        append.data,
        append.first_token,
        pack_tokens(append.tokens),
        append.window_bytes,
    )
    if append.state is None:
        return Call(script("append"), (keys.record(ref),), args)
    return Call(script("close"), (keys.record(ref),), (*args, append.state, append.reason))


def append_result(reply: Any) -> AppendResult | Exception:
    """What came of it, or why Redis refused."""
    if isinstance(reply, Exception):
        return reply
    status = AppendStatus(reply[0].decode())
    if status not in (AppendStatus.APPENDED, AppendStatus.AT):
        return AppendResult(status)
    return AppendResult(status, int(reply[1]), int(reply[2]))


def pulse_call(ask: Ask) -> Call:
    """Asks how a session is, and keeps it alive where it has waited in silence."""
    if ask.silence_ms < 0:
        return Call(script("ask"), (keys.record(ask.ref),), ())
    args = (keys.session(ask.ref), ask.silence_ms, ask.comment)
    return Call(script("pulse"), (keys.record(ask.ref),), args)


def pulse(reply: Sequence[Any]) -> Pulse | None:
    """How it is; None where it is gone."""
    if reply[0] == b"gone":
        return None
    state, end, last_ms, now_ms = (value.decode() for value in reply[:4])
    return Pulse(State(state), int(end), int(last_ms), int(now_ms), doubt(reply[4:]))


def doubt(values: Sequence[bytes | None]) -> Doubt | None:
    """The values of ``DOUBT_FIELDS``; a session without a doubt has none."""
    offset, end, number = (int(value or 0) for value in values)
    return Doubt(offset, end, number) if number else None


def stop_call(conversation: Conversation, epoch: int | None, keep: bool, reason: str) -> Call:
    """Stops the current session, and evicts what is retained unless it is kept."""
    args = (
        keys.stem(conversation),
        encode(conversation.id),
        str(epoch) if epoch else "",
        "1" if keep else "",
        reason,
        frames.end_comment(State.STOPPED, reason),
    )
    return Call(script("stop"), (keys.route(conversation),), args)


def stopped(conversation: Conversation, reply: Sequence[Any]) -> Stopped:
    """What was stopped."""
    what, epoch, model, state, reason, size, worker, number, dispatch, lease = (
        value.decode() for value in reply
    )
    return Stopped(
        stopped=what == "stopped",
        ref=SessionRef(conversation.tenant, conversation.id, decode(model), int(epoch)),
        state=State(state),
        reason=reason,
        size=int(size),
        worker=decode(worker),
        queue_number=int(number or 0),
        dispatch=int(dispatch or 0),
        was_claimed=int(lease or 0) > 0,
    )


def lookup_call(conversation: Conversation) -> Call:
    """Finds the sessions that may answer to a name."""
    args: tuple[str | bytes | int, ...] = (
        keys.stem(conversation),
        encode(conversation.id),
        LOOKUP_SESSIONS_MAX,
        *SUMMARY_FIELDS,
    )
    return Call(script("lookup"), (keys.conversations(conversation),), args)
