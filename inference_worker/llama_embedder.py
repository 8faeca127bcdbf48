"""Vectors out of llama.cpp: a context of its own beside the one that answers are generated in.

Owned by the batch loop's thread. It must not know slots, samplers or texts.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import _ggml

from inference_worker.engine import EmbeddingInfo, EmbeddingSettings, EngineFailed, Pooling, Vectors

BATCH_INPUTS = 32
"""Most inputs in one computation; a recurrent model reserves a state for each."""

POOLINGS = {
    Pooling.NONE: llama_cpp.LLAMA_POOLING_TYPE_NONE,
    Pooling.MEAN: llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    Pooling.CLS: llama_cpp.LLAMA_POOLING_TYPE_CLS,
    Pooling.LAST: llama_cpp.LLAMA_POOLING_TYPE_LAST,
    Pooling.RANK: llama_cpp.LLAMA_POOLING_TYPE_RANK,
}
RANK_HEADS = (b"cls.weight", b"cls.output.weight")

log = logging.getLogger(__name__)


class _FileParams(ctypes.Structure):
    """``gguf_init_params``: only the header is read."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


_ggml.libggml.gguf_init_from_file.restype = ctypes.c_void_p
_ggml.libggml.gguf_init_from_file.argtypes = (ctypes.c_char_p, _FileParams)
_ggml.libggml.gguf_find_tensor.restype = ctypes.c_int64
_ggml.libggml.gguf_find_tensor.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_ggml.libggml.gguf_free.argtypes = (ctypes.c_void_p,)


def embedding_info(
    model: Any, path: Path, settings: EmbeddingSettings | None
) -> EmbeddingInfo | None:
    """How this model embeds: pooled as was set, else as its file says, else by the mean.

    Without a rank head nothing is ranked: llama.cpp would return numbers that mean nothing.
    """
    if settings is None:
        return None
    own = _own_pooling(model)
    pooling = settings.pooling or own or Pooling.MEAN
    if pooling is Pooling.RANK and not has_rank_head(path):
        log.warning("%s has no rank head and cannot rerank", path)
        pooling = Pooling.MEAN if own in (None, Pooling.RANK) else own
    is_rank = pooling is Pooling.RANK
    width_of = llama_cpp.llama_model_n_cls_out if is_rank else llama_cpp.llama_model_n_embd_out
    return EmbeddingInfo(
        pooling=pooling,
        width=width_of(model),
        batch_tokens=settings.batch_tokens,
        batch_inputs=BATCH_INPUTS,
        # Positions beyond what it was trained on are outside a table that encoders look up.
        input_tokens_max=min(settings.ubatch_tokens, llama_cpp.llama_model_n_ctx_train(model)),
    )


def generates(model: Any) -> bool:
    """Whether it foretells tokens: an encoder sees all of a text at once, and can only embed."""
    return _metadata(model, "attention.causal") != "false"


def _own_pooling(model: Any) -> Pooling | None:
    number = _metadata(model, "pooling_type")
    return next((name for name, value in POOLINGS.items() if str(value) == number), None)


def _metadata(model: Any, key: str) -> str:
    """What the file says under its architecture's name; "" where it says nothing."""
    family = _told(model, "general.architecture")
    return _told(model, f"{family}.{key}")


def _told(model: Any, key: str) -> str:
    buffer = ctypes.create_string_buffer(64)
    llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def has_rank_head(path: Path) -> bool:
    """Whether the file has what makes a score of a vector."""
    file = _ggml.libggml.gguf_init_from_file(str(path).encode(), _FileParams(no_alloc=True))
    if not file:
        return False
    try:
        return any(_ggml.libggml.gguf_find_tensor(file, name) >= 0 for name in RANK_HEADS)
    finally:
        _ggml.libggml.gguf_free(file)


def rerank_input(
    model: Any, tokenize: Callable[..., list[int]], query: str, document: str
) -> list[int]:
    """A document beside a query: by the model's own template, else with what its vocabulary asks
    for around and between them."""
    template = llama_cpp.llama_model_chat_template(model, b"rerank")
    if template:
        texts = {"query": query, "document": document}
        shown = re.sub(
            r"\{(query|document)\}",
            lambda name: texts[name[1]],
            template.decode("utf-8", "replace"),
        )
        return tokenize(shown, add_special=False, parse_special=True)
    vocab = llama_cpp.llama_model_get_vocab(model)
    end = llama_cpp.llama_vocab_eos(vocab)
    end = llama_cpp.llama_vocab_sep(vocab) if end == llama_cpp.LLAMA_TOKEN_NULL else end
    adds_end = llama_cpp.llama_vocab_get_add_eos(vocab)
    adds_separator = llama_cpp.llama_vocab_get_add_sep(vocab)
    return [
        *[llama_cpp.llama_vocab_bos(vocab)] * llama_cpp.llama_vocab_get_add_bos(vocab),
        *tokenize(query, add_special=False, parse_special=True),
        *[end] * adds_end,
        *[llama_cpp.llama_vocab_sep(vocab)] * adds_separator,
        *tokenize(document, add_special=False, parse_special=True),
        *[end] * adds_end,
    ]


class Embedder:
    """One context and its batch, of one micro-batch each: what is in it is computed together.

    Raises EngineFailed where there is no memory for it.
    """

    def __init__(self, model: Any, info: EmbeddingInfo, *, threads: int) -> None:
        self._info = info
        params = llama_cpp.llama_context_default_params()
        tokens = max(info.batch_tokens, info.input_tokens_max)
        params.n_ctx = params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = info.batch_inputs
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.embeddings = True
        params.pooling_type = POOLINGS[info.pooling]
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise EngineFailed(f"no memory to embed {tokens} tokens at once")
        self._batch = llama_cpp.llama_batch_init(tokens, 0, 1)

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[Vectors]:
        """The vectors of inputs that fit into one batch. Raises EngineFailed."""
        self._fill(inputs)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        if code := llama_cpp.llama_decode(self._context, self._batch):
            raise EngineFailed(f"llama_decode returned {code}")
        if self._info.pooling is Pooling.NONE:
            rows = iter(range(self._batch.n_tokens))
            return [[self._row(next(rows)) for _ in tokens] for tokens in inputs]
        return [[self._pooled(number)] for number in range(len(inputs))]

    def close(self) -> None:
        """Frees batch and context; once only."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)

    def _fill(self, inputs: Sequence[Sequence[int]]) -> None:
        batch, row = self._batch, 0
        for number, tokens in enumerate(inputs):
            for position, token in enumerate(tokens):
                batch.token[row] = token
                batch.pos[row] = position
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = number
                batch.logits[row] = 1
                row += 1
        batch.n_tokens = row

    def _row(self, row: int) -> list[float]:
        return self._floats(llama_cpp.llama_get_embeddings_ith(self._context, row))

    def _pooled(self, number: int) -> list[float]:
        return self._floats(llama_cpp.llama_get_embeddings_seq(self._context, number))

    def _floats(self, pointer: Any) -> list[float]:
        if not pointer:
            raise EngineFailed("the model has no embeddings")
        return list(pointer[: self._info.width])
