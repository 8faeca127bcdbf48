"""What a model is computed on, as the operator sets it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SplitMode = Literal["none", "layer", "row", "tensor"]
LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap-mlock", "direct-io"]
KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]

PREFILL_CHUNK_TOKENS = 128
"""Default length of a prompt chunk: the longest that a running answer waits for, in tokens."""
GPU_PREFILL_CHUNK_TOKENS = 512
"""The same on a GPU, which computes so many in hardly more time."""

PLAIN_KV_TYPES = frozenset({"f32", "f16", "bf16"})
"""The others need flash attention where they hold values."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Devices and memory; llama.cpp's own names. A build without a GPU ignores what is about one.

    ``gpu_layers`` -1 is all. ``prefill_threads`` 0 is as many as else.
    Flash attention on a CPU computes a lone sequence otherwise than one among others, past 512
    tokens: greedy answers then depend on what else runs, and a takeover does not continue exactly.
    """

    prefill_threads: int = 0
    gpu_layers: int = -1
    main_gpu: int = 0
    split_mode: SplitMode = "layer"
    tensor_split: tuple[float, ...] = ()
    flash_attention: bool = False
    kv_type_k: KvType = "f16"
    kv_type_v: KvType = "f16"
    load_mode: LoadMode = "auto"


DEFAULT_HARDWARE = Hardware()


def tensor_split_of(text: str) -> tuple[float, ...]:
    """Shares of the GPUs, ``3,1``. Raises ValueError."""
    try:
        shares = tuple(float(share) for share in text.split(",")) if text.strip() else ()
    except ValueError:
        raise ValueError(f"a share of a GPU is no number: {text}") from None
    if any(not 0 <= share < float("inf") for share in shares) or (shares and not any(shares)):
        raise ValueError(f"shares of GPUs are not negative, and not all nothing: {text}")
    return shares
