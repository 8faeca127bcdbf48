"""The operator's ``Hardware`` in llama.cpp's parameters."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import llama_cpp

from inference_worker.engine import EngineFailed
from inference_worker.hardware import (
    GPU_PREFILL_CHUNK_TOKENS,
    PREFILL_CHUNK_TOKENS,
    Hardware,
    divides_keys,
    flash_attention_of,
)

SPLIT_MODES = {
    "none": llama_cpp.LLAMA_SPLIT_MODE_NONE,
    "layer": llama_cpp.LLAMA_SPLIT_MODE_LAYER,
    "row": llama_cpp.LLAMA_SPLIT_MODE_ROW,
    "tensor": llama_cpp.LLAMA_SPLIT_MODE_TENSOR,
}
LOAD_MODES = {
    "auto": llama_cpp.LLAMA_LOAD_MODE_AUTO,
    "none": llama_cpp.LLAMA_LOAD_MODE_NONE,
    "mmap": llama_cpp.LLAMA_LOAD_MODE_MMAP,
    "mlock": llama_cpp.LLAMA_LOAD_MODE_MLOCK,
    "mmap-mlock": llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK,
    "direct-io": llama_cpp.LLAMA_LOAD_MODE_DIRECT_IO,
}
FLASH_ATTENTION_TYPES = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
KV_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # llama-cpp-python has no name for it
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    "iq4_nl": llama_cpp.GGML_TYPE_IQ4_NL,
}


def computes_on_gpu(hardware: Hardware) -> bool:
    """Whether a GPU has any part of the model."""
    return hardware.gpu_layers != 0 and bool(llama_cpp.llama_supports_gpu_offload())


def chunk_tokens(hardware: Hardware) -> int:
    """How much of a prompt is fed at once, where nobody said."""
    return GPU_PREFILL_CHUNK_TOKENS if computes_on_gpu(hardware) else PREFILL_CHUNK_TOKENS


def is_batch_invariant(hardware: Hardware, threads: int) -> bool:
    """Whether what is computed for a sequence does not depend on what is beside it, given that
    each has a KV cache of its own."""
    is_divided = hardware.flash_attention == "on" and divides_keys(hardware, threads)
    return not (is_divided or computes_on_gpu(hardware))


def decided(hardware: Hardware, threads: int) -> Hardware:
    """With flash attention on or off; on a GPU llama.cpp knows what the device can do."""
    if computes_on_gpu(hardware):
        return hardware
    return replace(hardware, flash_attention=flash_attention_of(hardware, threads))


def model_params(hardware: Hardware) -> Any:
    """llama.cpp's defaults, but for the hardware. Raises EngineFailed for too many GPUs."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = hardware.gpu_layers
    params.main_gpu = hardware.main_gpu
    params.split_mode = SPLIT_MODES[hardware.split_mode]
    params.load_mode = LOAD_MODES[hardware.load_mode]
    if hardware.tensor_split:
        devices = llama_cpp.llama_max_devices()
        if len(hardware.tensor_split) > devices:
            raise EngineFailed(f"llama.cpp knows {devices} GPUs at most")
        # It reads all of them. ctypes keeps the array for as long as the parameters live.
        params.tensor_split = (ctypes.c_float * devices)(*hardware.tensor_split)
    return params


def context_params(hardware: Hardware, threads: int) -> Any:
    """llama.cpp's defaults, but for the hardware."""
    params = llama_cpp.llama_context_default_params()
    params.n_threads = threads
    params.n_threads_batch = hardware.prefill_threads or threads
    params.flash_attn_type = FLASH_ATTENTION_TYPES[hardware.flash_attention]
    params.type_k = KV_TYPES[hardware.kv_type_k]
    params.type_v = KV_TYPES[hardware.kv_type_v]
    return params
