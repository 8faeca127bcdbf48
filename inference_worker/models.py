"""Opens an engine for a model file. (Unloading, sleep and downloads will stand here too.)"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from inference_worker.config import WorkerSettings
from inference_worker.engine import EmbeddingSettings, Engine, EngineFailed, Pooling, file_sha256
from inference_worker.scripted_engine import open_scripted_engine

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
        )
    # Imported here: a scripted worker needs no llama.cpp on its machine.
    from inference_worker.llama_engine import LlamaSettings, open_llama_engine

    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise EngineFailed(f"the model {name} cannot be read: {error}") from error
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
            sha256=sha256,
            chat_template=template,
            embedding=EmbeddingSettings(
                Pooling(settings.pooling) if settings.pooling else None,
                batch_tokens=embedding_batch_tokens(settings),
                ubatch_tokens=settings.embedding_ubatch_tokens,
            )
            if settings.embeddings
            else None,
        ),
        on_progress=lambda progress: on_progress(name, progress),
    )


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
