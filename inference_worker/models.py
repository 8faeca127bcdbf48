"""Opens an engine for a model file. (Unloading, sleep and downloads will stand here too.)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from inference_worker.config import WorkerSettings
from inference_worker.engine import Engine, EngineFailed, file_sha256
from inference_worker.scripted_engine import open_scripted_engine

OnProgress = Callable[[str, float], None]
"""Is told a model's name and how much of it is loaded, 0 to 1; on the loading thread."""


def open_engine(settings: WorkerSettings, name: str, path: Path, on_progress: OnProgress) -> Engine:
    """Loads a model; blocks for seconds. Raises EngineFailed."""
    template = _chat_template(settings.chat_template_file)
    if settings.engine == "scripted":
        return open_scripted_engine(
            name=name,
            slots=settings.slots,
            context_tokens=settings.context_tokens,
            chat_template=template,
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
            gpu_layers=settings.gpu_layers,
            sha256=sha256,
            chat_template=template,
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
