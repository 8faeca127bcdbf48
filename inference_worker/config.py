"""The worker's settings, from the environment (prefix ``REPLAY_``)."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from inference_worker.hardware import (
    GPU_PREFILL_CHUNK_TOKENS,
    PLAIN_KV_TYPES,
    PREFILL_CHUNK_TOKENS,
    FlashAttention,
    Hardware,
    KvType,
    LoadMode,
    SplitMode,
    tensor_split_of,
)
from inference_worker.slot_files import SlotFiles

ON_OR_OFF = {"true": "on", "yes": "on", "1": "on", "false": "off", "no": "off", "0": "off"}
"""How else a switch may be set."""


def _setting(default: Any, description: str, unit: str = "", **limits: Any) -> Any:
    extra: dict[str, Any] = {"unit": unit}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class WorkerSettings(BaseSettings):
    """What a worker can be told. Read once, at start."""

    model_config = SettingsConfigDict(env_prefix="REPLAY_", frozen=True, extra="ignore")

    redis_url: str = _setting("redis://127.0.0.1:6379", "The Redis that keeps the session logs.")
    queue_redis_url: str = _setting(
        "", "The Redis of the queue (arq, prepare). Empty: the one of the session logs."
    )
    worker: str = _setting(
        "",
        "The worker's name: letters, digits and `._~-`. Empty: host and process number.",
    )
    models: str = _setting(
        "", "Models to serve: `name=/path.gguf,...`. Empty: every GGUF of the models folder."
    )
    models_dir: Path = _setting(Path(".models"), "Where model files lie.")
    lora: str = _setting(
        "",
        "LoRA adapters: `/path.gguf:scale,...`, with `name=` before the path of one that is for "
        "that model alone. Scales are 1 where none is said, and count where a request names none.",
    )
    chat_template_file: str = _setting(
        "", "A Jinja chat template for every model. Empty: each model file's own."
    )
    engine: Literal["llama", "scripted"] = _setting(
        "llama", "`scripted` answers from a script, without a model: for tests of everything else."
    )
    slots: int = _setting(8, "Sessions generated at once by each model.", "slots", ge=1, le=256)
    context_tokens: int = _setting(8192, "Context of one slot.", "tokens", ge=64)
    kv_pool_tokens: int = _setting(
        0,
        "Size of one KV cache for all slots; answers then depend on what else runs, and takeovers "
        "are not exact. 0: one for each slot.",
        "tokens",
        ge=0,
    )
    context_shift: bool = _setting(
        False, "Whether an answer goes on when its context is full, without what came first."
    )
    exact_answers: bool = _setting(
        True,
        "Whether, on a CPU, only as many answers share a step as leave each what it is alone: that "
        "depends on the type of the weights. `false`: all share it.",
    )
    threads: int = _setting(0, "Threads of the engine. 0: one a core.", "threads", ge=0)
    prefill_threads: int = _setting(
        0, "Threads that feed prompts. 0: as many as else.", "threads", ge=0
    )
    gpu_layers: int = _setting(
        -1, "Layers to put on GPUs, where there are any. -1: all.", "layers", ge=-1
    )
    main_gpu: int = _setting(0, "The GPU that is used where the split is `none`.", ge=0)
    split_mode: SplitMode = _setting("layer", "How a model is divided among GPUs.")
    tensor_split: str = _setting("", "Shares of the GPUs, as `3,1`. Empty: by their free memory.")
    flash_attention: FlashAttention = _setting(
        "auto",
        "`on`, `off` or `auto`: llama.cpp's choice on a GPU; on a CPU on with one thread and a KV "
        "cache of `f16`, and where values are quantized. With more threads and `f16` or `f32` "
        "answers would depend on what else runs, and takeovers would not be exact.",
    )
    kv_type_k: KvType = _setting("f16", "Type of the KV cache's keys.")
    kv_type_v: KvType = _setting(
        "f16", "Type of its values; one that is quantized needs flash attention."
    )
    load_mode: LoadMode = _setting(
        "auto", "How a model's file is read: mapped, locked in memory, or copied."
    )
    prefill_chunk_tokens: int = _setting(
        0,
        "How much of a prompt is fed in one step: the longest that a running answer waits for it. "
        f"0: {PREFILL_CHUNK_TOKENS}, on a GPU {GPU_PREFILL_CHUNK_TOKENS}.",
        "tokens",
        ge=0,
    )
    embeddings: bool = _setting(
        True, "Whether /v1/embeddings is answered; memory is taken when it is first asked."
    )
    pooling: Literal["", "none", "mean", "cls", "last", "rank"] = _setting(
        "",
        "How vectors of tokens become one of an input; `rank` is for rerankers. Empty: as the "
        "model's file says, else `mean`.",
    )
    embedding_batch_tokens: int = _setting(
        128,
        "Up to so many of the inputs' tokens are computed at once, between two steps of answers.",
        "tokens",
        ge=1,
    )
    embedding_ubatch_tokens: int = _setting(
        512, "The longest input that is embedded or ranked (a micro-batch).", "tokens", ge=1
    )
    slot_save_path: str = _setting(
        "",
        "Folder of the files that `POST /slots/<id>?action=save` writes: they hold prompts. Empty: "
        "slots are not to be saved, restored or erased.",
    )
    lease_s: float = _setting(
        4.0, "How long a session belongs to a worker that is not heard of.", "s", gt=0
    )
    window_bytes: int = _setting(
        32 * 1024 * 1024, "How many of a log's last bytes are kept.", "bytes", ge=64 * 1024
    )
    drain_s: float = _setting(
        2.0, "How long a process that is told to end lets its sessions finish.", "s", ge=0
    )

    @field_validator("flash_attention", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> str:
        text = str(value).lower()
        return ON_OR_OFF.get(text, text)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        tensor_split_of(self.tensor_split)
        self.adapter_files("")
        if self.kv_type_v not in PLAIN_KV_TYPES and self.flash_attention == "off":
            raise ValueError(f"REPLAY_KV_TYPE_V={self.kv_type_v} needs REPLAY_FLASH_ATTENTION=on")
        if self.slot_save_path and not Path(self.slot_save_path).is_dir():
            raise ValueError(f"REPLAY_SLOT_SAVE_PATH={self.slot_save_path} is no folder")
        return self

    def hardware(self) -> Hardware:
        """What the models are computed on."""
        return Hardware(
            prefill_threads=self.prefill_threads,
            gpu_layers=self.gpu_layers,
            main_gpu=self.main_gpu,
            split_mode=self.split_mode,
            tensor_split=tensor_split_of(self.tensor_split),
            flash_attention=self.flash_attention,
            kv_type_k=self.kv_type_k,
            kv_type_v=self.kv_type_v,
            load_mode=self.load_mode,
        )

    def slot_files(self) -> SlotFiles | None:
        """Where slots are saved; None where they are not."""
        return SlotFiles(Path(self.slot_save_path)) if self.slot_save_path else None

    @property
    def id(self) -> str:
        """The worker's name, made up where none was given."""
        return self.worker or f"{platform.node()}-{os.getpid()}"

    @property
    def queue_url(self) -> str:
        """The queue plane's URL."""
        return self.queue_redis_url or self.redis_url

    def model_files(self) -> dict[str, Path]:
        """Model names and their files. Raises ValueError where there is none, and where one that
        is not there is to have an adapter."""
        files = self._model_files()
        for entry in _entries(self.lora):
            name, _, _ = _adapter(entry)
            if name and name not in files:
                raise ValueError(f"REPLAY_LORA={entry}: there is no model {name}")
        return files

    def adapter_files(self, model: str) -> tuple[tuple[Path, float], ...]:
        """The files of a model's adapters, and their scales. Raises ValueError."""
        adapters = (_adapter(entry) for entry in _entries(self.lora))
        return tuple((path, scale) for name, path, scale in adapters if name in ("", model))

    def _model_files(self) -> dict[str, Path]:
        if self.models:
            return dict(_named(entry) for entry in _entries(self.models))
        found = {path.stem: path for path in sorted(self.models_dir.glob("*.gguf"))}
        if not found and self.engine == "llama":
            raise ValueError(
                f"no model: {self.models_dir} has no .gguf file, REPLAY_MODELS is empty"
            )
        return found or {"scripted": Path("scripted")}


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _adapter(entry: str) -> tuple[str, Path, float]:
    """An adapter's model, "" for all, its file and its scale. Raises ValueError."""
    name, separator, rest = entry.partition("=")
    file, colon, scale = (rest if separator else entry).partition(":")
    try:
        factor = float(scale) if colon else 1.0
    except ValueError:
        factor = math.nan
    if not (file and math.isfinite(factor)):
        raise ValueError(f"REPLAY_LORA={entry}: expected /path.gguf:scale")
    return (name if separator else ""), Path(file), factor


def _named(entry: str) -> tuple[str, Path]:
    name, separator, path = entry.partition("=")
    return (name, Path(path)) if separator else (Path(entry).stem, Path(entry))
