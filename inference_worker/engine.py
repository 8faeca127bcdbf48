"""The engine port: what the worker asks of a model, and what it is told.

Values and a Protocol only. It knows nothing of llama.cpp, of Redis, of dialects or of asyncio; an
adapter (llama_engine, scripted_engine) stands behind it, a worker in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from inference_worker.context_shift import Shift
from inference_worker.errors import (
    EngineError,
    EngineFailed,
    NoFreeSlot,
    PromptInvalid,
    PromptTooLong,
    SavedUnfit,
    SlotBusy,
)
from inference_worker.saved_slot import SavedSlot
from replay.adapters import Adapter, Applied
from replay.request import ChatOptions, SamplingParams

__all__ = [
    "NO_OPTIONS",
    "Candidate",
    "EmbeddingInfo",
    "EmbeddingSettings",
    "Engine",
    "EngineError",
    "EngineFailed",
    "FimTokens",
    "Finish",
    "FinishReason",
    "Message",
    "ModelInfo",
    "NoFreeSlot",
    "OnSteps",
    "Pooling",
    "PromptInvalid",
    "PromptTooLong",
    "SavedSlot",
    "SavedUnfit",
    "SequenceSpec",
    "SlotBusy",
    "Step",
    "ThoughtLimit",
    "Timings",
    "TokenLogprobs",
    "Vectors",
]

NO_OPTIONS = ChatOptions()

Message = dict[str, Any]
"""One chat message as the client sent it: role, content (a string or parts), and what else."""


class Pooling(StrEnum):
    """How the vectors of an input's tokens become one."""

    NONE = "none"
    """They do not: there is one for each token."""
    MEAN = "mean"
    CLS = "cls"
    """The first token's."""
    LAST = "last"
    RANK = "rank"
    """The model's rank head makes a score of them: how relevant a document is to a query."""


Vectors = list[list[float]]
"""What the model makes of one input: a vector, or with ``Pooling.NONE`` one for each token."""


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How to embed: ``pooling`` None is as the model says. A computation takes ``batch_tokens``,
    and a longer input, of up to ``ubatch_tokens``, alone."""

    pooling: Pooling | None = None
    batch_tokens: int = 128
    ubatch_tokens: int = 512


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """How a model embeds: up to ``batch_tokens`` and ``batch_inputs`` in one computation, and a
    longer input, up to ``input_tokens_max``, in one of its own."""

    pooling: Pooling
    width: int
    batch_tokens: int
    batch_inputs: int
    input_tokens_max: int


@dataclass(frozen=True, slots=True)
class FimTokens:
    """The tokens with which a model is told to fill a hole; -1 for those that it does not have."""

    prefix: int = -1
    suffix: int = -1
    middle: int = -1
    repository: int = -1
    separator: int = -1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded, as ``/props`` and ``/v1/models`` report it and the record pins it.

    ``context_tokens`` is per slot. ``sha256`` is of the GGUF, or None until someone hashed it (see
    ``file_hash``). ``build`` begins with "b", like llama.cpp's.
    ``embedding`` is None where embeddings are switched off; not ``generates`` is an encoder.
    With ``shifts_context`` an answer goes on when its context is full. Some models have a template
    of its own, ``tool_template``, for chats with tools. Each of ``end_tokens`` ends an answer.
    ``batch_invariant``: what is computed for a sequence does not depend on what is beside it, where
    no more than ``answers_max`` answers share a step; 0 is all of them.
    """

    name: str
    path: str
    context_tokens: int
    slots: int
    vocabulary_tokens: int
    size_bytes: int
    parameters: int
    context_train_tokens: int
    embedding_width: int
    vocab_type: int
    chat_template: str
    bos_text: str
    eos_text: str
    build: str
    sha256: str | None = None
    embedding: EmbeddingInfo | None = None
    generates: bool = True
    shifts_context: bool = False
    tool_template: str = ""
    fim: FimTokens = FimTokens()
    end_tokens: tuple[int, ...] = ()
    batch_invariant: bool = True
    adapters: tuple[Adapter, ...] = ()
    answers_max: int = 0

    def template_of(self, options: ChatOptions) -> str:
        """The source of the template that a chat with these options is rendered with."""
        return (self.tool_template if options.tools else "") or self.chat_template


@dataclass(frozen=True, slots=True)
class ThoughtLimit:
    """How a thought between two tags is ended early: by the tokens of ``closing``.

    That is after ``budget_tokens`` of it (-1: never), and by ``Engine.end_thought``, which with
    ``is_over`` was called before. ``is_open``: the prompt ends inside of it.
    """

    begin: str
    end: str
    closing: tuple[int, ...]
    is_open: bool = False
    budget_tokens: int = -1
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """One session to run.

    ``sampled`` are the tokens that an earlier attempt sampled: they are fed again, not sampled
    again, and no step shows their text (the caller replays it with ``text.TextAssembler``).
    ``forced`` are the indexes of those that were not sampled, but forced to end a thought.
    ``max_tokens`` counts the tokens of all attempts; -1 is until the context is full. ``id`` must
    be unique among the sequences that have not finished.
    The prompt is fed in chunks of ``prefill_chunk_tokens``, 0 for the engine's own, and begins with
    what a slot's cache holds of it where ``cache_prompt`` allows it. The text has the names of
    ``shown_tokens``, which else show nothing.
    Without a ``shift`` a full context ends the answer; so does a later line with less ``indent``.
    """

    id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    sampled: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int = -1
    prefill_chunk_tokens: int = 0
    cache_prompt: bool = True
    forced: frozenset[int] = frozenset()
    thought: ThoughtLimit | None = None
    shown_tokens: frozenset[int] = frozenset()
    shift: Shift | None = None
    indent: int = 0
    adapters: Applied = ()


class Candidate(NamedTuple):
    """A token that could be chosen, the bytes that it shows, and how likely it was: the natural
    logarithm of its probability, or with ``post_sampling_probs`` the probability.

    A tuple, since each token may come with a hundred of them.
    """

    token: int
    piece: bytes
    likelihood: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The token that was chosen, and the ``n_probs`` most likely ones, the likeliest first."""

    chosen: Candidate
    top: tuple[Candidate, ...]


class FinishReason(StrEnum):
    """Why a sequence finished."""

    STOP = "stop"
    """The model ended its answer, or a stop string came up."""
    LENGTH = "length"
    """``max_tokens`` or the context is used up, or a line is not indented as was asked."""
    STOPPED = "stopped"
    """Somebody called ``Engine.stop``, or the engine is closing."""
    FAILED = "failed"
    """``Finish.error`` says what broke."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a sequence; its slot is free again when this is seen."""

    reason: FinishReason
    stopping_word: str = ""
    context_full: bool = False
    error: str = ""
    shifted: bool = False
    ended_ms: int = 0  # by Redis's clock, which no engine knows

    @property
    def is_cut(self) -> bool:
        """Whether the answer would have gone on."""
        return self.reason is FinishReason.LENGTH

    @property
    def is_truncated(self) -> bool:
        """Whether the context was too small for all of prompt and answer."""
        return self.context_full or self.shifted


@dataclass(frozen=True, slots=True)
class Timings:
    """What this attempt took so far, in llama.cpp's terms.

    ``prompt_n`` tokens were fed before the first new token (those of an earlier attempt among
    them), ``predicted_n`` were sampled, ``cache_n`` of the prompt came out of a slot's KV cache.
    """

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    cache_n: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine step did for one sequence.

    ``tokens`` are newly sampled (or ``is_forced``), the end-of-generation token and tokens without
    visible text among them. ``text`` may be shown now; it never splits a code point and never holds
    a stop string. ``prompt_tokens_done`` begins at ``prompt_tokens_cached``, what a slot's cache
    held. ``timings`` is there whenever ``tokens`` or ``finish`` is. ``logprobs``, where they were
    asked for, are of the tokens that ``text`` begins to show, an earlier attempt's among them.
    """

    sequence_id: str
    tokens: tuple[int, ...] = ()
    text: str = ""
    finish: Finish | None = None
    prompt_tokens_done: int = 0
    prompt_tokens_total: int = 0
    prompt_tokens_cached: int = 0
    timings: Timings | None = field(default=None, compare=False)
    logprobs: tuple[TokenLogprobs, ...] = ()
    is_forced: bool = False


OnSteps = Callable[[Sequence[Step]], None]
"""Called on the engine's thread, once per engine step: it must return quickly and not raise."""


class Engine(Protocol):
    """A loaded model with a fixed number of slots. All of it may be called from any thread."""

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""

    @property
    def free_slots(self) -> int:
        """Slots that ``submit`` would find free now; 0 once the engine failed or closed."""

    @property
    def failure(self) -> str:
        """Why it will never compute again; "" while it may, and where it was closed."""

    @property
    def prefill_chunk_tokens(self) -> int:
        """The chunks in which it feeds a prompt."""

    @property
    def held_tokens(self) -> tuple[int, ...]:
        """By slot: how many tokens its cache holds that the next prompt may begin with; 0 for one
        in use."""

    def start(self, on_steps: OnSteps) -> None:
        """Starts the engine's thread; once only."""

    def submit(self, spec: SequenceSpec) -> int:
        """Takes a slot at once and returns its number; the work shows up as steps.

        Raises NoFreeSlot, PromptTooLong, PromptInvalid (an empty prompt) or EngineFailed.
        """

    def stop(self, sequence_id: str) -> None:
        """Ends a sequence early: in the middle of a prompt chunk, or with at most one more token.

        Idempotent; a sequence that is unknown or has finished is left alone.
        """

    def end_thought(self, sequence_id: str) -> None:
        """Ends a sequence's thought with its next token, or as soon as it begins.

        Idempotent; a sequence that is unknown or has no ``ThoughtLimit`` is left alone.
        """

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text; special tokens are added, and recognised in it, as asked."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token shows: none for control and end-of-generation tokens."""

    def spelling(self, token: int) -> bytes:
        """The bytes that stand for a token in a text: special ones have a name, ``<|im_end|>``."""

    def prompt_text(self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS) -> str:
        """The rendered chat template. Raises PromptInvalid."""

    def prompt_tokens(
        self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS
    ) -> list[int]:
        """Token ids of ``prompt_text``, with what the tokenizer adds. Raises PromptInvalid."""

    def rerank_inputs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """Token ids of each document beside the query, as the model's rank head expects them."""

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[Vectors]:
        """Computes one batch, as ``ModelInfo.embedding`` allows it, between two steps; blocks.

        Answers that run get as much time as it took before the next one. Raises EngineFailed.
        """

    def save_slot(self, slot: int) -> SavedSlot:
        """Copies what a free slot's cache holds, between two steps; blocks.

        Raises SlotBusy for one in use, and EngineFailed.
        """

    def restore_slot(self, slot: int, saved: SavedSlot) -> None:
        """Puts what was saved in the place of what a free slot's cache holds, between two steps;
        blocks. Raises SavedUnfit before it touches anything, SlotBusy and EngineFailed; after any
        other failure the cache holds nothing.
        """

    def erase_slot(self, slot: int) -> int:
        """Empties a free slot's cache between two steps; returns how many tokens it held; blocks.

        Raises SlotBusy and EngineFailed.
        """

    def close(self) -> None:
        """Finishes what runs as stopped, joins the thread (5 s at most), frees the model."""
