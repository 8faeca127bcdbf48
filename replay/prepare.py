"""*Prepare*: the question that a node asks any worker with the model's vocabulary.

What needs the model (template, token count) is answered before anything of the conversation is
touched, and without a slot. Question and answer travel over two lists of the queue plane:
``keys.prepare(model)`` and ``keys.inbox(node)``; both are taken by BLPOP, so that any worker may
answer and a slow one only costs time. Pure: values and their JSON.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from replay.records import known_fields, pack_prompt, unpack_prompt
from replay.request import LogitBias

QUESTION_TTL_S = 30
"""Nobody answers a question older than this; the list expires with it."""


@dataclass(frozen=True, slots=True)
class Question:
    """``node`` is where the answer goes; ``messages`` are the client's, verbatim.

    ``logit_bias`` may name tokens by their text.
    """

    id: str
    node: str
    model: str
    messages: tuple[dict[str, Any], ...]
    logit_bias: tuple[LogitBias, ...] = ()

    def to_json(self) -> str:
        """As it stands in the list."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Question:
        """The inverse of ``to_json``."""
        raw = json.loads(text)
        biases = _biases(raw.get("logit_bias", ()))
        return cls(raw["id"], raw["node"], raw["model"], tuple(raw["messages"]), biases)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The prompt's tokens, how the worker will feed them, and the biases by token ids."""

    prompt: tuple[int, ...]
    prefill_chunk_tokens: int
    model_sha256: str = ""
    logit_bias: tuple[LogitBias, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Why this prompt cannot be generated from.

    ``kind`` "context" carries both numbers; "invalid" is the client's mistake, ``param`` the field;
    "engine" is ours.
    """

    kind: Literal["context", "invalid", "engine"]
    message: str
    param: str = ""
    prompt_tokens: int = 0
    context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the question with this id."""

    id: str
    result: Prepared | Refused

    def to_json(self) -> str:
        """As it stands in the node's inbox."""
        if isinstance(self.result, Refused):
            return json.dumps({"id": self.id, "refused": asdict(self.result)})
        prompt = b64encode(pack_prompt(self.result.prompt)).decode()
        return json.dumps({"id": self.id, "prepared": {**asdict(self.result), "prompt": prompt}})

    @classmethod
    def from_json(cls, text: str | bytes) -> Answer:
        """The inverse of ``to_json``."""
        raw = json.loads(text)
        if "refused" in raw:
            return cls(raw["id"], Refused(**known_fields(Refused, raw["refused"])))
        fields = raw["prepared"]
        fields["prompt"] = unpack_prompt(b64decode(fields["prompt"]))
        fields["logit_bias"] = _biases(fields.get("logit_bias", ()))
        return cls(raw["id"], Prepared(**known_fields(Prepared, fields)))


def _biases(raw: Iterable[Sequence[Any]]) -> tuple[LogitBias, ...]:
    return tuple((token, bias) for token, bias in raw)
