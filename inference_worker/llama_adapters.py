"""LoRA adapters in llama.cpp: a context computes with some of its model's, or with none."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import llama_cpp

from inference_worker.engine import EngineFailed
from replay.adapters import Adapter, Applied

VALUE_BYTES_MAX = 4096
"""Longer words of a file are cut."""


class Adapters:
    """The adapters of one model, and which of them its context computes with. They are loaded
    before the context is made, which has room for them from then on; the model frees them.

    Owned by the engine's thread. Raises EngineFailed for a file that does not fit the model.
    """

    def __init__(self, model: Any, adapters: Sequence[Adapter]) -> None:
        self._handles = {adapter.sha256: _load(model, adapter.path) for adapter in adapters}
        self.loaded = tuple(_described(one, self._handles[one.sha256]) for one in adapters)
        self._applied: Applied = ()

    def apply(self, context: Any, wanted: Applied) -> None:
        """Has the next decodes compute with these. To switch costs some milliseconds: llama.cpp
        plans its memory anew."""
        if wanted == self._applied:
            return
        count = len(wanted)
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * count)(
            *(self._handles[sha256] for sha256, _ in wanted)
        )
        scales = (ctypes.c_float * count)(*(scale for _, scale in wanted))
        llama_cpp.llama_set_adapters_lora(context, handles, count, scales)
        self._applied = wanted


def _load(model: Any, path: str) -> Any:
    handle = llama_cpp.llama_adapter_lora_init(model, path.encode())
    if not handle:
        raise EngineFailed(f"the adapter {path} cannot be read, or does not fit the model")
    if llama_cpp.llama_adapter_get_alora_n_invocation_tokens(handle):
        raise EngineFailed(
            f"the adapter {path} works from certain words of a prompt on (aLoRA): not supported"
        )
    return handle


def _described(adapter: Adapter, handle: Any) -> Adapter:
    return replace(
        adapter,
        task_name=_value(handle, b"adapter.lora.task_name"),
        prompt_prefix=_value(handle, b"adapter.lora.prompt_prefix"),
    )


def _value(handle: Any, key: bytes) -> str:
    buffer = ctypes.create_string_buffer(VALUE_BYTES_MAX)
    length = llama_cpp.llama_adapter_meta_val_str(handle, key, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if length >= 0 else ""
