"""The generation request: what the API node writes and the inference worker reads.

Pure values without I/O. A dialect (OpenAI chat today) is turned into this once, by the API; from
then on nobody looks at the client's body again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from replay.records import known_fields

Dialect = Literal["openai.chat"]

SEED_MAX = 2**32 - 1
PING_INTERVAL_S = 15
"""Seconds of silence after which a keep-alive comment is appended, where a request names none."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; names, defaults and order are llama.cpp's.

    ``seed`` is concrete (0 to 2**32 - 1), never "random": a worker that takes the session over must
    draw what the first one would have drawn.
    """

    seed: int
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """What the client asked to see in the stream beside the text."""

    stream: bool = True
    include_usage: bool = False
    timings_per_token: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt in, one answer out.

    ``max_tokens`` is -1 for "until the context is full". ``ping_interval_s`` is -1 for never.
    ``messages`` are the client's, verbatim; the prompt's tokens are made of them by *prepare*.
    """

    dialect: Dialect
    model: str
    messages: tuple[dict[str, Any], ...]
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    max_tokens: int = -1
    render: RenderOptions = field(default_factory=RenderOptions)
    ping_interval_s: int = PING_INTERVAL_S

    def to_json(self) -> str:
        """Compact JSON, as the session record keeps it."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> GenerationRequest:
        """The inverse of ``to_json``; fields that a newer version wrote are left out."""
        raw = known_fields(cls, json.loads(text))
        raw["messages"] = tuple(raw["messages"])
        raw["stop"] = tuple(raw.get("stop", ()))
        raw["sampling"] = SamplingParams(**known_fields(SamplingParams, raw["sampling"]))
        raw["render"] = RenderOptions(**known_fields(RenderOptions, raw.get("render", {})))
        return cls(**raw)
