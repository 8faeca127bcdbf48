"""What a model is computed on, as the operator sets it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SplitMode = Literal["none", "layer", "row", "tensor"]
LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap-mlock", "direct-io"]
FlashAttention = Literal["auto", "on", "off"]
KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]

PREFILL_CHUNK_TOKENS = 128
"""Default length of a prompt chunk: the longest that a running answer waits for, in tokens."""
GPU_PREFILL_CHUNK_TOKENS = 512
"""The same on a GPU, which computes so many in hardly more time."""

PLAIN_KV_TYPES = frozenset({"f32", "f16", "bf16"})
"""The others need flash attention where they hold values."""
DIVIDED_KV_TYPES = frozenset({"f32", "f16"})
"""Flash attention on a CPU divides such keys and values among its threads."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Devices and memory; llama.cpp's own names. A build without a GPU ignores what is about one.

    ``gpu_layers`` -1 is all. ``prefill_threads`` 0 is as many as else.
    With ``flash_attention`` auto llama.cpp decides on a GPU, ``flash_attention_of`` on a CPU.
    """

    prefill_threads: int = 0
    gpu_layers: int = -1
    main_gpu: int = 0
    split_mode: SplitMode = "layer"
    tensor_split: tuple[float, ...] = ()
    flash_attention: FlashAttention = "auto"
    kv_type_k: KvType = "f16"
    kv_type_v: KvType = "f16"
    load_mode: LoadMode = "auto"


DEFAULT_HARDWARE = Hardware()


def flash_attention_of(hardware: Hardware, threads: int) -> FlashAttention:
    """On or off, on a CPU. Auto is on where values need it, and where it is exact and no slower
    for most: 32-bit caches are converted at each step, and other types feed prompts slowly."""
    if hardware.flash_attention != "auto":
        return hardware.flash_attention
    is_needed = hardware.kv_type_v not in PLAIN_KV_TYPES
    is_fast = hardware.kv_type_k == hardware.kv_type_v == "f16"
    return "on" if is_needed or (is_fast and not divides_keys(hardware, threads)) else "off"


def divides_keys(hardware: Hardware, threads: int) -> bool:
    """Whether flash attention on a CPU divides a sequence's keys among the threads.

    It does so past 256 tokens for a sequence that is alone in its micro-batch, and only for that,
    and rounds otherwise then: greedy answers depend on what else runs, and a takeover does not
    continue exactly.
    """
    return threads > 1 and {hardware.kv_type_k, hardware.kv_type_v} <= DIVIDED_KV_TYPES


def tensor_split_of(text: str) -> tuple[float, ...]:
    """Shares of the GPUs, ``3,1``. Raises ValueError."""
    try:
        shares = tuple(float(share) for share in text.split(",")) if text.strip() else ()
    except ValueError:
        raise ValueError(f"a share of a GPU is no number: {text}") from None
    if any(not 0 <= share < float("inf") for share in shares) or (shares and not any(shares)):
        raise ValueError(f"shares of GPUs are not negative, and not all nothing: {text}")
    return shares
