"""A sequence's part of llama.cpp's KV cache as bytes, and back."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import llama_cpp

from inference_worker.engine import EngineFailed, ModelInfo
from inference_worker.hardware import Hardware
from inference_worker.model import SlotsExhausted


def cache_kind(info: ModelInfo, hardware: Hardware, *, is_shared: bool) -> Mapping[str, str]:
    """What two contexts must have in common to read each other's caches, and to go on from them
    with the same tokens. The processor's abilities choose kernels, which round differently."""
    return {
        "model": info.sha256 or info.path,
        "build": info.build,
        "processor": llama_cpp.llama_print_system_info().decode(),
        "number of GPU layers": str(hardware.gpu_layers),
        "type of keys": hardware.kv_type_k,
        "type of values": hardware.kv_type_v,
        "flash attention": hardware.flash_attention,
        # What llama.cpp writes has a place for each cache of the context.
        "number of KV caches": "1" if is_shared else str(info.slots),
    }


def save(context: Any, slot: int) -> memoryview:
    """Copies what is there of a slot's tokens. Raises EngineFailed."""
    size = llama_cpp.llama_state_seq_get_size(context, slot)
    memory = _memory(size)
    target = (ctypes.c_uint8 * size).from_buffer(memory)
    if llama_cpp.llama_state_seq_get_data(context, target, size, slot) != size:
        raise EngineFailed(f"the KV cache of slot {slot} cannot be copied")
    return memoryview(memory)


def load(context: Any, slot: int, data: bytes | memoryview) -> None:
    """Fills an empty slot. Raises SlotsExhausted; the slot is then empty."""
    source = bytes(data)
    read = llama_cpp.llama_state_seq_set_data(
        context,
        ctypes.cast(ctypes.c_char_p(source), ctypes.POINTER(ctypes.c_uint8)),
        len(source),
        slot,
    )
    if read != len(source):
        raise SlotsExhausted("the KV cache has no room, or does not take what was saved")


def _memory(size: int) -> mmap.mmap:
    """In huge pages, where the kernel has any: to touch small ones for the first time takes longer
    than to copy, and running answers wait meanwhile."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
