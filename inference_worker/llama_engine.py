"""llama.cpp behind the engine port: one context, many sequences, a sampler chain for each.

It must not know queues, threads or text: the batch loop calls it from its one thread.
"""

from __future__ import annotations

import ctypes
import locale
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp

from inference_worker import llama_cache, llama_params
from inference_worker.batch_loop import BatchEngine
from inference_worker.context_shift import Gap
from inference_worker.engine import (
    NO_OPTIONS,
    EmbeddingSettings,
    EngineFailed,
    Message,
    ModelInfo,
    SequenceSpec,
    Vectors,
)
from inference_worker.hardware import DEFAULT_HARDWARE, Hardware
from inference_worker.llama_adapters import Adapters
from inference_worker.llama_embedder import Embedder, embedding_info, generates, rerank_input
from inference_worker.llama_interrupt import ON_LOG, Interrupt
from inference_worker.llama_invariance import with_company
from inference_worker.llama_sampler import Sampler, Vocabulary
from inference_worker.llama_texts import fim_tokens, template, token_piece, token_text
from inference_worker.model import Draw, Feed, SlotsExhausted
from inference_worker.prompt import DEFAULT_TEMPLATE, ChatTemplate
from replay.adapters import Adapter
from replay.request import ChatOptions

OnProgress = Callable[[float], None]
"""Told how much of the model is loaded, from 0 to 1."""

NO_KV_SLOT = 1
"""What llama_decode returns when the cache has no room; nothing was computed then."""
INTERRUPTED = 2
"""What it returns when it ended early."""
CONTEXT_TOKENS_STEP = 256
"""llama.cpp rounds a context up to multiples of this."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """How to load one GGUF.

    ``context_tokens`` is per slot and capped at what the model was trained on. ``threads`` 0 is
    one per core, ``prefill_chunk_tokens`` 0 what suits the hardware. With a KV cache that all slots
    share, of ``kv_pool_tokens``, greedy answers depend on what else runs, and a takeover does not
    continue exactly; 0 is one for each slot.
    """

    path: Path
    name: str
    slots: int = 8
    context_tokens: int = 8192
    threads: int = 0
    prefill_chunk_tokens: int = 0
    hardware: Hardware = DEFAULT_HARDWARE
    kv_pool_tokens: int = 0
    context_shift: bool = False
    exact_answers: bool = True
    sha256: str | None = None
    chat_template: str = ""
    """In place of the file's own; "" for that one."""
    embedding: EmbeddingSettings | None = None
    adapters: tuple[Adapter, ...] = ()


def open_llama_engine(
    settings: LlamaSettings, *, on_progress: OnProgress | None = None
) -> BatchEngine:
    """Loads a model (seconds to minutes) into an engine that is ready to start.

    Raises EngineFailed where the file is no model, or memory does not suffice.
    """
    model = LlamaModel(settings, on_progress=on_progress)
    return BatchEngine(model, prefill_chunk_tokens=_chunk_tokens(settings))


class LlamaModel:
    """A loaded GGUF and its context: the ``Model`` that the batch loop drives."""

    def __init__(self, settings: LlamaSettings, *, on_progress: OnProgress | None = None) -> None:
        # Numbers in what C code writes or reads keep their point, whatever the host's locale.
        locale.setlocale(locale.LC_NUMERIC, "C")
        llama_cpp.llama_log_set(ON_LOG, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        settings = _decided(settings)
        self._model = _load(settings, on_progress)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._adapters = Adapters(self._model, settings.adapters)
        info = _model_info(self._model, self._vocab, settings)
        self._info = replace(info, adapters=self._adapters.loaded)
        self._end_tokens = frozenset(self._info.end_tokens)
        # All at once: a look-up must never wait for another thread's long tokenization.
        self._pieces = [
            b"" if token in self._end_tokens else token_piece(self._vocab, token)
            for token in range(self._info.vocabulary_tokens)
        ]
        self._spellings = [
            piece or token_piece(self._vocab, token, special=True)
            for token, piece in enumerate(self._pieces)
        ]
        self._vocabulary = Vocabulary(self._vocab, self._pieces, self._spellings, self._end_tokens)
        self._template = ChatTemplate.of(self._info)
        self._context = _open_context(self._model, self._info, settings)
        self._info = with_company(self._context, self._info, exact=settings.exact_answers)
        self._memory = llama_cpp.llama_get_memory(self._context)
        if settings.context_shift:
            self._info = replace(self._info, shifts_context=self._can_shift())
        self._cache_kind = llama_cache.cache_kind(
            self._info, settings.hardware, is_shared=settings.kv_pool_tokens > 0
        )
        self._batch = llama_cpp.llama_batch_init(_batch_tokens(settings), 0, 1)
        self._interrupt = Interrupt(self._context)
        self._embedder: Embedder | None = None
        self._threads = settings.threads
        self._samplers: dict[int, Sampler] = {}
        self._rows: dict[int, int] = {}
        self._vocab_lock = threading.Lock()

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        return self._info

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See ``Engine.tokenize``. Raises EngineFailed once the model is freed."""
        raw = text.encode("utf-8", "replace")
        # More than one token a byte there cannot be, and a few special ones are added.
        room = len(raw) + 8
        tokens = (llama_cpp.llama_token * room)()
        with self._vocab_lock:
            if not self._model:
                raise EngineFailed("the model is closed")
            count = llama_cpp.llama_tokenize(
                self._vocab, raw, len(raw), tokens, room, add_special, parse_special
            )
        assert count >= 0, f"{-count} tokens of {len(raw)} bytes"
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """See ``Engine.piece``."""
        return self._pieces[token]

    def spelling(self, token: int) -> bytes:
        """See ``Engine.spelling``."""
        return self._spellings[token]

    def prompt_text(self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS) -> str:
        """See ``Engine.prompt_text``."""
        text = self._template.render(messages, options)
        if llama_cpp.llama_vocab_get_add_bos(self._vocab):
            # The tokenizer adds it: a template that writes it too would double it.
            return text.removeprefix(self._info.bos_text)
        return text

    def prompt_tokens(
        self, messages: Sequence[Message], options: ChatOptions = NO_OPTIONS
    ) -> list[int]:
        """See ``Engine.prompt_tokens``."""
        text = self.prompt_text(messages, options)
        return self.tokenize(text, add_special=True, parse_special=True)

    def rerank_inputs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """See ``Engine.rerank_inputs``."""
        return [rerank_input(self._model, self.tokenize, query, document) for document in documents]

    def ends(self, token: int) -> bool:
        """Whether this token ends a generation."""
        return token in self._end_tokens

    def trim(self, slot: int, tokens: int) -> int:
        """See ``Model.trim``. Recurrent states cannot be cut, sliding windows have lost their
        beginning: such a cache is emptied."""
        if tokens > 0 and self._holds(slot, tokens) and self._forget(slot, tokens):
            return tokens
        if not self._forget(slot, 0):
            raise EngineFailed(f"the KV cache refused to empty slot {slot}")
        return 0

    @property
    def cache_kind(self) -> Mapping[str, str]:
        """See ``Model.cache_kind``."""
        return self._cache_kind

    def save_cache(self, slot: int) -> memoryview:
        """See ``Model.save_cache``."""
        return llama_cache.save(self._context, slot)

    def load_cache(self, slot: int, data: bytes | memoryview) -> None:
        """See ``Model.load_cache``."""
        llama_cache.load(self._context, slot, data)

    def shift(self, slot: int, gap: Gap) -> None:
        """See ``Model.shift``; the next decode turns the keys that moved."""
        behind = gap.first + gap.tokens
        if not llama_cpp.llama_memory_seq_rm(self._memory, slot, gap.first, behind):
            raise EngineFailed(f"the KV cache of slot {slot} cannot be shifted")
        llama_cpp.llama_memory_seq_add(self._memory, slot, behind, -1, -gap.tokens)

    def open_slot(self, slot: int, spec: SequenceSpec, *, accepted: int) -> None:
        """Builds the slot's sampler chain."""
        self._samplers[slot] = Sampler(
            spec.sampling,
            self._vocabulary,
            prompt=spec.prompt,
            answer=spec.sampled[:accepted],
            shown_tokens=spec.shown_tokens,
        )

    def decode(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """One llama_decode over all feeds; see ``Model.decode``."""
        self._adapters.apply(self._context, feeds[0].adapters)
        with self._interrupt:
            self._fill(feeds)
            code = llama_cpp.llama_decode(self._context, self._batch)
        if code == INTERRUPTED:
            for feed in feeds:
                self.trim(feed.slot, feed.position)
            return ()
        if code == NO_KV_SLOT:
            raise SlotsExhausted("Context size has been exceeded.")
        if code:
            raise EngineFailed(f"llama_decode returned {code}")
        return feeds

    def interrupt(self) -> None:
        """Ends the decode that runs now within one operation; on a GPU it runs to its end."""
        self._interrupt.set()

    def sample(self, slot: int, index: int, *, forced: int | None = None) -> Draw:
        """The slot's next token from the logits of the last decode."""
        row = self._rows[slot]
        return self._samplers[slot].sample(self._context, row=row, index=index, forced=forced)

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[Vectors]:
        """See ``Model.embed``. The first call takes the memory that embedding needs."""
        if self._info.embedding is None:
            raise EngineFailed("embeddings are switched off")
        if self._embedder is None:
            self._embedder = Embedder(self._model, self._info.embedding, threads=self._threads)
        return self._embedder.embed(inputs)

    def close_slot(self, slot: int) -> None:
        """Frees the slot's sampler; its KV cache stays until the slot is opened again."""
        sampler = self._samplers.pop(slot, None)
        if sampler:
            sampler.close()

    def close(self) -> None:
        """Frees samplers, batch, context and model; once only."""
        for slot in tuple(self._samplers):
            self.close_slot(slot)
        self._vocabulary.close()
        if self._embedder:
            self._embedder.close()
        with self._vocab_lock:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._context)
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def _can_shift(self) -> bool:
        can_shift = bool(llama_cpp.llama_memory_can_shift(self._memory))
        if not can_shift:
            log.warning("the context of %s cannot be shifted", self._info.name)
        return can_shift

    def _holds(self, slot: int, tokens: int) -> bool:
        """Whether the slot's KV cache has all of its first tokens."""
        first = llama_cpp.llama_memory_seq_pos_min(self._memory, slot)
        last = llama_cpp.llama_memory_seq_pos_max(self._memory, slot)
        return bool(first == 0 and last >= tokens - 1)

    def _forget(self, slot: int, position: int) -> bool:
        """Empties the slot's KV cache from ``position`` on; False where it refuses."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, slot, position, -1))

    def _fill(self, feeds: Sequence[Feed]) -> None:
        batch, row = self._batch, 0
        for feed in feeds:
            for offset, token in enumerate(feed.tokens):
                batch.token[row] = token
                batch.pos[row] = feed.position + offset
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = feed.slot
                batch.logits[row] = 0
                row += 1
            batch.logits[row - 1] = feed.samples
            self._rows[feed.slot] = row - 1
        batch.n_tokens = row


def _load(settings: LlamaSettings, on_progress: OnProgress | None) -> Any:
    params = llama_params.model_params(settings.hardware)
    # Named, so that ctypes does not free it while the model loads.
    callback = llama_cpp.llama_progress_callback(lambda done, _: _tell(on_progress, done))
    params.progress_callback = callback
    model = llama_cpp.llama_model_load_from_file(str(settings.path).encode(), params)
    if not model:
        raise EngineFailed(f"{settings.path} could not be loaded")
    return model


def _tell(on_progress: OnProgress | None, done: float) -> bool:
    if on_progress:
        on_progress(done)
    return True


def _decided(settings: LlamaSettings) -> LlamaSettings:
    """With all that depends on the machine, so that nothing below asks it again."""
    threads = settings.threads or os.cpu_count() or 1
    hardware = llama_params.decided(settings.hardware, threads)
    return replace(settings, threads=threads, hardware=hardware)


def _chunk_tokens(settings: LlamaSettings) -> int:
    return settings.prefill_chunk_tokens or llama_params.chunk_tokens(settings.hardware)


def _batch_tokens(settings: LlamaSettings) -> int:
    return max(settings.slots, _chunk_tokens(settings))


def _open_context(model: Any, info: ModelInfo, settings: LlamaSettings) -> Any:
    params = llama_params.context_params(settings.hardware, settings.threads)
    slot_tokens = -(-info.context_tokens // CONTEXT_TOKENS_STEP) * CONTEXT_TOKENS_STEP
    params.n_ctx = settings.kv_pool_tokens or info.slots * slot_tokens
    params.n_seq_max = info.slots
    # One micro-batch a step: llama.cpp never cuts a chunk by what the machine happens to be.
    params.n_batch = params.n_ubatch = _batch_tokens(settings)
    params.kv_unified = settings.kv_pool_tokens > 0
    params.no_perf = True
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        llama_cpp.llama_model_free(model)
        raise EngineFailed(f"no memory for {info.slots} slots of {info.context_tokens} tokens")
    return context


def _model_info(model: Any, vocab: Any, settings: LlamaSettings) -> ModelInfo:
    trained = llama_cpp.llama_model_n_ctx_train(model)
    if settings.context_tokens > trained:
        log.warning("%s was trained on %s tokens of context", settings.name, trained)
    own, for_tools = (template(model, name) for name in (None, b"tool_use"))
    return ModelInfo(
        name=settings.name,
        path=str(settings.path),
        # No slot has more room than all of them together.
        context_tokens=min(settings.context_tokens, trained, settings.kv_pool_tokens or trained),
        slots=settings.slots,
        vocabulary_tokens=llama_cpp.llama_vocab_n_tokens(vocab),
        size_bytes=llama_cpp.llama_model_size(model),
        parameters=llama_cpp.llama_model_n_params(model),
        context_train_tokens=trained,
        embedding_width=llama_cpp.llama_model_n_embd(model),
        vocab_type=llama_cpp.llama_vocab_type(vocab),
        chat_template=settings.chat_template or own or DEFAULT_TEMPLATE,
        tool_template="" if settings.chat_template else for_tools,
        bos_text=token_text(vocab, llama_cpp.llama_vocab_bos(vocab)),
        eos_text=token_text(vocab, llama_cpp.llama_vocab_eos(vocab)),
        build=f"b{llama_cpp.__version__}",
        sha256=settings.sha256,
        embedding=embedding_info(model, settings.path, settings.embedding),
        generates=generates(model),
        fim=fim_tokens(vocab),
        end_tokens=tuple(
            token
            for token in range(llama_cpp.llama_vocab_n_tokens(vocab))
            if llama_cpp.llama_vocab_is_eog(vocab, token)
        ),
        batch_invariant=not settings.kv_pool_tokens
        and llama_params.is_batch_invariant(settings.hardware, settings.threads),
    )
