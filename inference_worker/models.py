"""Opens an engine for a model and its adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from inference_worker.adapters import applied
from inference_worker.config import WorkerSettings
from inference_worker.engine import (
    EmbeddingSettings,
    Engine,
    EngineFailed,
    Pooling,
    PromptInvalid,
)
from inference_worker.file_hash import file_sha256
from inference_worker.scripted_engine import open_scripted_engine
from replay.adapters import Adapter

OnProgress = Callable[[str, float], None]
"""Is told a model's name and how much of it is loaded, 0 to 1; on the loading thread."""


logger = logging.getLogger(__name__)


def open_engine(settings: WorkerSettings, name: str, path: Path, on_progress: OnProgress) -> Engine:
    """Loads a model; blocks for seconds. Raises EngineFailed."""
    template = _chat_template(settings.chat_template_file)
    if settings.engine == "scripted":
        return open_scripted_engine(
            name=name,
            slots=settings.slots,
            context_tokens=settings.context_tokens,
            chat_template=template,
            pooling=Pooling(settings.pooling or "mean") if settings.embeddings else None,
            input_tokens_max=settings.embedding_ubatch_tokens,
            adapters=_adapters(settings, name, lambda path: sha256(bytes(path)).hexdigest()),
        )
    # Imported here: a scripted worker needs no llama.cpp on its machine.
    from inference_worker.llama_engine import LlamaSettings, open_llama_engine

    return open_llama_engine(
        LlamaSettings(
            path=path,
            name=name,
            slots=settings.slots,
            context_tokens=settings.context_tokens,
            threads=settings.threads,
            prefill_chunk_tokens=settings.prefill_chunk_tokens,
            hardware=settings.hardware(),
            kv_pool_tokens=settings.kv_pool_tokens,
            context_shift=settings.context_shift,
            exact_answers=settings.exact_answers,
            sha256=_file_sha256(path),
            chat_template=template,
            embedding=EmbeddingSettings(
                Pooling(settings.pooling) if settings.pooling else None,
                batch_tokens=embedding_batch_tokens(settings),
                ubatch_tokens=settings.embedding_ubatch_tokens,
            )
            if settings.embeddings
            else None,
            adapters=_adapters(settings, name, _file_sha256),
        ),
        on_progress=lambda progress: on_progress(name, progress),
    )


def _file_sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise EngineFailed(f"{path} cannot be read: {error}") from error


def _adapters(
    settings: WorkerSettings, model: str, sha256_of: Callable[[Path], str]
) -> tuple[Adapter, ...]:
    """The adapters of a model. Raises EngineFailed where they cannot be its adapters by default."""
    files = settings.adapter_files(model)
    found = tuple(Adapter(str(path), sha256_of(path), scale) for path, scale in files)
    if len({adapter.sha256 for adapter in found}) < len(found):
        raise EngineFailed(f"an adapter of {model} is there twice")
    try:
        applied(found, ())
    except PromptInvalid as error:
        raise EngineFailed(f"{model}: {error}: give the others a scale of 0") from None
    return found


def _chat_template(file: str) -> str:
    """The template that the operator gives, "" for none. Raises EngineFailed."""
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineFailed(f"the chat template {file} cannot be read: {error}") from error


def embedding_batch_tokens(settings: WorkerSettings) -> int:
    """As it was set, but within the micro-batch: an encoder sees all of a batch at once."""
    batch, ubatch = settings.embedding_batch_tokens, settings.embedding_ubatch_tokens
    if batch > ubatch:
        logger.warning("embeddings enabled with a batch (%d) > micro-batch (%d)", batch, ubatch)
        logger.warning("REPLAY_EMBEDDING_BATCH_TOKENS is taken as %d", ubatch)
    return min(batch, ubatch)
