"""The model port: what the batch loop asks of whatever computes.

Values and a Protocol only; llama_engine and scripted_engine stand behind it. It must not know
sequences, threads or text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from inference_worker.context_shift import Gap
from inference_worker.engine import (
    NO_OPTIONS,
    Message,
    ModelInfo,
    SequenceSpec,
    TokenLogprobs,
    Vectors,
)
from replay.adapters import Applied
from replay.request import ChatOptions


class SlotsExhausted(Exception):
    """The KV cache has no room for these feeds; nothing of them was computed."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens for one slot, from ``position`` on, to be computed with these ``adapters``;
    ``samples`` asks for logits after the last."""

    slot: int
    tokens: tuple[int, ...]
    position: int
    samples: bool
    adapters: Applied = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """A token that was chosen, with its probabilities where the sequence asks for them."""

    token: int
    logprobs: TokenLogprobs | None = None


class Model(Protocol):
    """What computes. Up to ``rerank_inputs``, and ``interrupt``, it may be called from any
    thread; the others are the loop's."""

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See ``Engine.tokenize``."""

    def piece(self, token: int) -> bytes:
        """See ``Engine.piece``."""

    def spelling(self, token: int) -> bytes:
        """See ``Engine.spelling``."""

    def prompt_text(self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS) -> str:
        """See ``Engine.prompt_text``."""

    def prompt_tokens(
        self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS
    ) -> list[int]:
        """See ``Engine.prompt_tokens``."""

    def rerank_inputs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """See ``Engine.rerank_inputs``."""

    def ends(self, token: int) -> bool:
        """Whether this token ends a generation."""

    def trim(self, slot: int, tokens: int) -> int:
        """Empties a slot's KV cache but for its first ``tokens``; returns how many it still holds,
        which is 0 where it cannot be cut there."""

    @property
    def cache_kind(self) -> Mapping[str, str]:
        """What, beside the tokens, decides what a KV cache holds, and how it is written down."""

    def save_cache(self, slot: int) -> bytes | memoryview:
        """A copy of a slot's KV cache."""

    def load_cache(self, slot: int, data: bytes | memoryview) -> None:
        """Fills an empty slot with what ``save_cache`` gave under the same ``cache_kind``.

        Raises SlotsExhausted where there is no room; the slot stays empty.
        """

    def shift(self, slot: int, gap: Gap) -> None:
        """Forgets these tokens of a slot; those behind them move up to their place."""

    def open_slot(self, slot: int, spec: SequenceSpec, *, accepted: int) -> None:
        """Makes a slot's sampler ready, as if it had sampled the first ``accepted`` of
        ``spec.sampled``."""

    def decode(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """Computes feeds, all with the same adapters, and returns those it did; the others come
        again in a later step.

        Raises SlotsExhausted, having computed none; what else it raises fails all of ``feeds``.
        """

    def interrupt(self) -> None:
        """Lets the decode that runs now end early, where it can: it has then done no feed."""

    def sample(self, slot: int, index: int, *, forced: int | None = None) -> Draw:
        """The slot's next token, after a decode that asked for it; its ``index``-th, from 0.

        With ``forced`` it is that one, and the sampler learns what it would have learned.
        """

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[Vectors]:
        """What it makes of one batch of inputs; the slots are not touched.

        Raises EngineFailed where there is no memory for it; other batches may still succeed.
        """

    def close_slot(self, slot: int) -> None:
        """Lets go of what ``open_slot`` made; the KV cache stays until it is trimmed."""

    def close(self) -> None:
        """Frees the model; nothing is called afterwards."""
