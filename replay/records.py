"""The session record, the token string and the log's end: values, and how Redis holds them. Pure.

PROTOCOL.md names every field. Unknown fields are ignored, so that a reader of version N lives
beside a writer of version N + 1.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from replay.identity import SEPARATOR, Conversation, SessionRef

RECORD_VERSION = 1

TOKEN = struct.Struct("<IHH")
"""One token in the token string: id, choice, flags. Eight bytes, so that its index is its place."""

TOKEN_FORCED = 1
"""Flag: the token was forced (a template's or a command's), not sampled."""

TOKEN_LAST = 2
"""Flag: with this token its choice ended, while others of the session went on."""

TOKEN_CUT = 4
"""Flag beside TOKEN_LAST: the choice's length was used up."""

PROMPT_TOKEN = struct.Struct("<I")


class State(StrEnum):
    """Where a session is in its life. The last four are final."""

    QUEUED = "queued"
    LOADING = "loading"
    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({State.COMPLETED, State.STOPPED, State.FAILED, State.LOST})


class Reason(StrEnum):
    """Why a session ended, beside its state."""

    STOP = "stop"
    LENGTH = "length"
    CLIENT = "client"
    OPERATOR = "operator"
    REPLACED = "replaced"
    DISCONNECTED = "disconnected"
    ENGINE = "engine"
    LOAD = "load"
    STORAGE = "storage"
    POISON = "poison"
    LIMIT = "limit"
    QUEUE = "queue"
    LOG = "log"
    ORPHAN = "orphan"


REASONS: Mapping[State, frozenset[Reason]] = {
    State.COMPLETED: frozenset({Reason.STOP, Reason.LENGTH}),
    State.STOPPED: frozenset(
        {Reason.CLIENT, Reason.OPERATOR, Reason.REPLACED, Reason.DISCONNECTED}
    ),
    State.FAILED: frozenset(
        {Reason.ENGINE, Reason.LOAD, Reason.STORAGE, Reason.POISON, Reason.LIMIT, Reason.QUEUE}
    ),
    State.LOST: frozenset({Reason.LOG, Reason.ORPHAN}),
}


def fields_of(value: Any) -> dict[str, Any]:
    """A dataclass's fields as they are, for JSON. ``asdict`` would copy every element of what a
    client sent, which takes ten times as long as writing it."""
    return {one.name: getattr(value, one.name) for one in fields(value)}


def known_fields(cls: Any, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What this version's dataclass knows of what another version wrote."""
    return {key: value for key, value in raw.items() if key in cls.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the log keeps it: its id, the choice (``n``) it belongs to, and its flags."""

    id: int
    choice: int = 0
    flags: int = 0


def pack_tokens(tokens: Iterable[Token]) -> bytes:
    """Eight bytes a token, in order."""
    return b"".join(TOKEN.pack(token.id, token.choice, token.flags) for token in tokens)


def unpack_tokens(packed: bytes) -> list[Token]:
    """The inverse of ``pack_tokens``."""
    return [Token(*unpacked) for unpacked in TOKEN.iter_unpack(packed)]


def pack_prompt(prompt: Iterable[int]) -> bytes:
    """Four bytes a token id."""
    return b"".join(map(PROMPT_TOKEN.pack, prompt))


def unpack_prompt(packed: bytes) -> tuple[int, ...]:
    """The inverse of ``pack_prompt``."""
    return tuple(token for (token,) in PROMPT_TOKEN.iter_unpack(packed))


@dataclass(frozen=True, slots=True)
class NewSession:
    """What the opening of a session needs. Epoch and creation time are the log's to give.

    ``name`` is the client's header value, verbatim. ``request`` is the generation request's JSON.
    ``owner`` is the node whose end stops the session, "" where none does (a client opted in).
    ``prefill_chunk_tokens`` tells how the prompt is fed, which decides later rounding.
    ``reasoning_control``: its thought may be ended from outside.
    ``request_sha256`` is what another request under the same ``idempotency_key`` is compared with.
    """

    conversation: Conversation
    name: str
    model: str
    dialect: str
    request: str
    prompt: tuple[int, ...]
    prefill_chunk_tokens: int
    completion_id: str
    id_seed: str
    retention_s: float
    ping_interval_s: int
    queue_number: int
    model_sha256: str = ""
    owner: str = ""
    idempotency_key: str = ""
    request_sha256: str = ""
    traceparent: str = ""
    message_id: str = ""
    prefix_content_chars: int = 0
    prefix_reasoning_chars: int = 0
    reasoning_control: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    def to_fields(self) -> dict[str, str | bytes]:
        """The fields that the opener writes; the opening script adds the rest."""
        return {
            "version": str(RECORD_VERSION),
            "tenant": self.conversation.tenant,
            "conversation": self.conversation.id,
            "name": self.name,
            "model": self.model,
            "dialect": self.dialect,
            "request": self.request,
            "prompt": pack_prompt(self.prompt),
            "prefill_chunk_tokens": str(self.prefill_chunk_tokens),
            "completion_id": self.completion_id,
            "id_seed": self.id_seed,
            "retention_ms": str(round(self.retention_s * 1000)),
            "ping_interval_s": str(self.ping_interval_s),
            "queue_number": str(self.queue_number),
            "model_sha256": self.model_sha256,
            "owner": self.owner,
            "idempotency_key": self.idempotency_key,
            "request_sha256": self.request_sha256,
            "traceparent": self.traceparent,
            "message_id": self.message_id,
            "prefix_content_chars": str(self.prefix_content_chars),
            "prefix_reasoning_chars": str(self.prefix_reasoning_chars),
            "reasoning_control": str(int(self.reasoning_control)),
            **self.extra,
        }


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as Redis holds it. Times are milliseconds of Redis's clock, 0 where not yet.

    ``end`` is the log's end in bytes, ``token_count`` how many tokens stand in the token string,
    ``claimed_tokens`` how many there were at the last claim, ``deaths`` how many workers in a row
    died with the session, ``hand_overs`` how often it was given up for no fault of its own,
    ``entered`` the last attempt that reached an engine, ``dispatch`` how often it was put into the
    queue. Where ``doubts`` is not 0, bytes from ``doubt`` to ``doubt_end`` may have been delivered
    that Redis has lost.
    ``message_id`` and the lengths of what a page showed before the answer began (it continues an
    earlier one) are the client's words, for its other devices.
    ``reasoning_control`` 1: whoever knows its completion id may end its thought; ``reasoning_end``
    1: somebody has.
    ``packed_bytes`` is what the blocks of a compacted log take, 0 where it is not compacted.
    """

    tenant: str
    conversation: str
    name: str
    model: str
    epoch: int
    version: int = RECORD_VERSION
    dialect: str = ""
    request: str = "{}"
    prompt: tuple[int, ...] = ()
    prefill_chunk_tokens: int = 0
    model_sha256: str = ""
    completion_id: str = ""
    id_seed: str = ""
    state: State = State.QUEUED
    reason: str = ""
    attempt: int = 0
    nonce: str = ""
    worker: str = ""
    lease_until_ms: int = 0
    owner: str = ""
    created_ms: int = 0
    last_ms: int = 0
    ended_ms: int = 0
    expires_ms: int = 0
    end: int = 0
    token_count: int = 0
    prompt_token_count: int = 0
    ping_interval_s: int = -1
    retention_ms: int = 0
    queue_number: int = 0
    dispatch: int = 0
    deaths: int = 0
    claimed_tokens: int = 0
    hand_overs: int = 0
    entered: int = 0
    idempotency_key: str = ""
    request_sha256: str = ""
    traceparent: str = ""
    message_id: str = ""
    prefix_content_chars: int = 0
    prefix_reasoning_chars: int = 0
    run_id: str = ""
    doubt: int = 0
    doubt_end: int = 0
    doubts: int = 0
    other_run: str = ""
    other_ms: int = 0
    packed_bytes: int = 0
    reasoning_control: int = 0
    reasoning_end: int = 0

    @property
    def ref(self) -> SessionRef:
        """The session's identity."""
        return SessionRef(self.tenant, self.conversation, self.model, self.epoch)

    def answers_to(self, name: str) -> bool:
        """Whether a client that says ``name`` means this session."""
        return name in (self.name, self.conversation, self.conversation + SEPARATOR + self.model)

    def to_fields(self) -> dict[str, str | bytes]:
        """The inverse of ``from_fields``, for a whole record that Redis has forgotten."""
        values = {name: getattr(self, name) for name in _CONVERTERS}
        return {
            name: pack_prompt(value) if name == "prompt" else str(value)
            for name, value in values.items()
        }

    @classmethod
    def from_fields(cls, raw: Mapping[bytes, bytes]) -> SessionRecord:
        """Reads a record's hash. Raises KeyError where it names no session."""
        values: dict[str, Any] = {}
        for key, convert in _CONVERTERS.items():
            if (value := raw.get(key.encode())) is not None:
                values[key] = convert(value)
        for key in ("tenant", "conversation", "name", "model", "epoch"):
            values[key]  # a record without these is no record
        if prompt := raw.get(b"prompt"):
            values["prompt_token_count"] = len(prompt) // PROMPT_TOKEN.size
        return cls(**values)

    @classmethod
    def from_summary(cls, values: Iterable[bytes | None]) -> SessionRecord | None:
        """Reads the values of ``SUMMARY_FIELDS``; None where there is no session."""
        pairs = zip(SUMMARY_FIELDS, values, strict=True)
        raw = {name.encode(): value for name, value in pairs if value is not None}
        return cls.from_fields(raw) if b"epoch" in raw else None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


_CONVERTERS: dict[str, Any] = {
    item.name: {"int": int, "str": _text, "State": lambda value: State(_text(value))}.get(
        str(item.type), unpack_prompt
    )
    for item in fields(SessionRecord)
}

SUMMARY_FIELDS = tuple(name for name in _CONVERTERS if name not in ("prompt", "request"))
"""The fields of a record less the two large ones: all that readers and operators need."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Stored bytes; they end at offset ``end``."""

    end: int
    data: bytes

    @property
    def start(self) -> int:
        """The offset of the first byte."""
        return self.end - len(self.data)

    def cut(self, offset: int) -> Chunk:
        """What lies at ``offset`` and after. The offset must lie within the chunk."""
        return self if offset <= self.start else Chunk(self.end, self.data[offset - self.start :])


@dataclass(frozen=True, slots=True)
class End:
    """The last entry of a log: how the session ended and how many bytes it has."""

    state: State
    reason: str
    size: int

    @classmethod
    def from_json(cls, text: str | bytes) -> End:
        """Reads what the log stores."""
        raw = json.loads(text)
        return cls(State(raw["state"]), raw["reason"], int(raw["size"]))
