"""*Prepare*: what a node asks any worker that has a model's vocabulary and template.

It is answered without a slot, and a generation's before anything of the conversation is touched.
Question and answer travel over two lists of the queue plane: ``keys.prepare(model)`` and
``keys.inbox(node)``; both are taken by BLPOP, so that any worker may answer and a slow one only
costs time. What the model must compute for (``Embed``, ``Rerank``) waits in a list of its own,
``keys.embedding(model)``, so that no chat waits behind it; what one worker alone can do
(``SlotOrder``) in ``keys.slots(worker, model)``. Pure: values and their JSON.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any, Literal

from replay.adapters import Applied, Scales
from replay.records import fields_of, known_fields, pack_prompt, unpack_prompt
from replay.request import AnswerFormat, ChatOptions, Constraint, Infill, LogitBias, Prompt
from replay.slot_order import SlotChanged, SlotOrder

QUESTION_TTL_S = 30
"""Nobody answers a question older than this; the list expires with it."""

INPUTS_MAX = 32
"""Most inputs, or documents, that one question asks about: a worker decodes them together."""

VECTORS_BYTES_MAX = 32 << 20
"""Most bytes of vectors that one answer carries."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt to generate from, or to count; ``messages`` are the client's, verbatim.

    ``logit_bias`` may name tokens by their text. ``budget_message`` is said before a thought is
    ended early.
    """

    messages: tuple[dict[str, Any], ...]
    logit_bias: tuple[LogitBias, ...] = ()
    options: ChatOptions = field(default_factory=ChatOptions)
    budget_message: str = ""
    constraint: Constraint | None = None
    lora: Scales = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt to go on from as it is, without a template; ``logit_bias`` as in ``Chat``.

    A text's special tokens are recognised in it, and the model's own beginning is added before it.
    With ``infill`` there is one prompt, which is made of that.
    """

    prompts: tuple[Prompt, ...]
    logit_bias: tuple[LogitBias, ...] = ()
    constraint: Constraint | None = None
    infill: Infill | None = None
    lora: Scales = ()


@dataclass(frozen=True, slots=True)
class Render:
    """The prompt's text."""

    messages: tuple[dict[str, Any], ...]
    options: ChatOptions = field(default_factory=ChatOptions)


@dataclass(frozen=True, slots=True)
class Tokenize:
    """A text's tokens.

    The model's own beginning and end are added (``add_special``), and special tokens recognised in
    the text (``parse_special``), as asked.
    """

    text: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


@dataclass(frozen=True, slots=True)
class Detokenize:
    """The text that tokens stand for, special ones too."""

    tokens: tuple[int, ...]


Input = str | tuple[int | str, ...]
"""What a vector is made of: a text, or token ids with texts among them."""


@dataclass(frozen=True, slots=True)
class Embed:
    """Vectors of up to ``INPUTS_MAX`` inputs.

    ``normalize`` is llama.cpp's: -1 leaves them, 0 scales the largest value to 32,760, 2 makes the
    length 1, any other p the p-norm. ``dimensions`` keeps that many of the first values, 0 all.
    ``single`` refuses a model that has a vector for each token instead of one for an input.
    """

    inputs: tuple[Input, ...]
    normalize: int = 2
    dimensions: int = 0
    single: bool = False


@dataclass(frozen=True, slots=True)
class Rerank:
    """How relevant up to ``INPUTS_MAX`` documents are to a query."""

    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """What a newer version asks; it is refused."""

    kind: str


Computed = Embed | Rerank
"""What the model computes for; the others need its vocabulary and template alone."""

Asked = Chat | Completion | Render | Tokenize | Detokenize | Computed | SlotOrder | Unknown


@dataclass(frozen=True, slots=True)
class Prepared:
    """The answer to ``Chat`` and to ``Completion``: the prompt's tokens, how the worker will feed
    them, the biases by token ids, how the answer's text is to be parsed, and the grammar that it
    must satisfy, with triggers from where one of these words comes up. ``prompts`` are the texts of
    a completion's; with several, ``prompt`` has their tokens one after the other. The context
    shifts at ``shift_at`` tokens, 0 is never. All of it is to be computed with ``adapters``."""

    prompt: tuple[int, ...]
    prefill_chunk_tokens: int
    model_sha256: str = ""
    logit_bias: tuple[LogitBias, ...] = ()
    format: AnswerFormat = field(default_factory=AnswerFormat)
    prompts: tuple[str, ...] = ()
    prompt_lengths: tuple[int, ...] = ()
    grammar: str = ""
    grammar_triggers: tuple[str, ...] = ()
    shift_at: int = 0
    adapters: Applied = ()


Piece = str | list[int]
"""A token's text, or its bytes where they are no valid UTF-8."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The answer to ``Tokenize``; ``pieces`` only where they were asked for, one a token."""

    tokens: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """The answer to ``Render`` and to ``Detokenize``."""

    text: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer to ``Embed`` and ``Rerank``.

    ``vectors`` has one string an input: base64 of 32-bit floats, little endian, ``width`` of them,
    or as many for each of the input's tokens. Of a reranked document it is its score alone.
    """

    vectors: tuple[str, ...]
    width: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is no answer.

    ``kind`` "context" carries both numbers; "invalid" is the client's mistake, ``param`` the field;
    "engine" is ours; "unsupported" is what the model, or how it is served, does not offer;
    "unknown" is another version's: a worker that knows the question may be there; "busy" is a slot
    that somebody has.
    """

    kind: Literal["context", "invalid", "engine", "unsupported", "unknown", "busy"]
    message: str
    param: str = ""
    prompt_tokens: int = 0
    context_tokens: int = 0


Result = Prepared | Tokenized | Text | Embedded | SlotChanged | Refused

_KINDS: dict[str, Any] = {
    "chat": Chat,
    "completion": Completion,
    "render": Render,
    "tokenize": Tokenize,
    "detokenize": Detokenize,
    "embed": Embed,
    "rerank": Rerank,
    "slot": SlotOrder,
}
_RESULTS: dict[str, Any] = {
    "prepared": Prepared,
    "tokenized": Tokenized,
    "text": Text,
    "embedded": Embedded,
    "slot_changed": SlotChanged,
    "refused": Refused,
}
_ARRAYS = frozenset({"adapters", "inputs", "logit_bias", "lora", "prompts"})
"""Fields whose elements may be arrays."""
_NESTED: dict[str, Any] = {
    "constraint": lambda raw: raw and Constraint(**known_fields(Constraint, raw)),
    "format": AnswerFormat.from_raw,
    "infill": lambda raw: raw and Infill.from_raw(raw),
    "options": ChatOptions.from_raw,
}
_PACKED = frozenset({"prompt", "tokens"})
"""Fields that are token ids: as bytes they are a third of what their digits would be."""


@dataclass(frozen=True, slots=True)
class Question:
    """``node`` is where the answer goes."""

    id: str
    node: str
    model: str
    asked: Asked

    def to_json(self) -> str:
        """As it stands in the list."""
        head = {"id": self.id, "node": self.node, "model": self.model}
        kind = {"kind": _name_of(self.asked, _KINDS)}
        return _json({**head, **kind, **_written(self.asked)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Question:
        """The inverse of ``to_json``. Raises KeyError, TypeError or ValueError."""
        raw = {**json.loads(text)}
        kind = raw.get("kind", "chat")
        asked = _read(_KINDS[kind], raw) if kind in _KINDS else Unknown(str(kind))
        return cls(raw["id"], raw["node"], raw["model"], asked)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the question with this id."""

    id: str
    result: Result

    def to_json(self) -> str:
        """As it stands in the node's inbox."""
        name = _name_of(self.result, _RESULTS)
        return _json({"id": self.id, name: _written(self.result)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Answer:
        """The inverse of ``to_json``. Raises KeyError, TypeError or ValueError."""
        raw = {**json.loads(text)}
        [name] = _RESULTS.keys() & raw.keys()
        return cls(raw["id"], _read(_RESULTS[name], {**raw[name]}))


def _name_of(value: Any, names: dict[str, Any]) -> str:
    return next(name for name, kind in names.items() if type(value) is kind)


def _json(value: Any) -> str:
    return json.dumps(value, default=fields_of, separators=(",", ":"))


def _written(value: Any) -> dict[str, Any]:
    named = fields_of(value)
    packed = {name: b64encode(pack_prompt(named[name])).decode() for name in _PACKED & named.keys()}
    return {**named, **packed}


def _read(kind: Any, raw: dict[str, Any]) -> Any:
    """What this version knows of it; arrays are tuples here."""
    named = known_fields(kind, raw)
    packed = {name: unpack_prompt(b64decode(named[name])) for name in _PACKED & named.keys()}
    arrays = {name: tuple(value) for name, value in named.items() if isinstance(value, list)}
    inner = {name: tuple(map(_frozen, named[name])) for name in _ARRAYS & named.keys()}
    nested = {name: _NESTED[name](named[name]) for name in _NESTED.keys() & named.keys()}
    return kind(**{**named, **arrays, **inner, **packed, **nested})


def _frozen(element: Any) -> Any:
    return tuple(element) if isinstance(element, list) else element
