"""How many answers llama.cpp computes at once as it computes each alone: found out by doing it.

Which kernel multiplies so many rows depends on the type of a matrix, the processor and the build,
so no table could say it. It must not know slots' sequences: it runs before the first of them.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import llama_cpp

from inference_worker.engine import EngineFailed, ModelInfo

log = logging.getLogger(__name__)


def with_company(context: Any, info: ModelInfo, *, exact: bool) -> ModelInfo:
    """What is loaded, and how many of its answers may share a step; leaves every slot empty.
    Adapters are not quantized: an answer with any is exact alone.

    Takes about as long as three answers' tokens for each slot. Raises EngineFailed.
    """
    if not (info.batch_invariant and info.generates):
        return info
    together = exact_width(lambda width: _logits(context, info, width), info.slots)
    if together == info.slots and (exact or not info.adapters):
        return info
    if exact:
        log.info("%d answers of %s share a step: more would round otherwise", together, info.name)
        return replace(info, answers_max=together)
    log.warning("answers of %s depend on what runs beside them", info.name)
    return replace(info, batch_invariant=False)


def exact_width(rows: Callable[[int], Sequence[bytes]], slots: int) -> int:
    """The most of these slots, all fed the same, whose ``rows`` are what a lone one's is.

    Kernels change at a power of two, so only those, one less, and all slots are tried.
    """
    powers = [1 << bits for bits in range(slots.bit_length())]
    widths = {width for power in powers for width in (power - 1, power)} | {slots}
    (lone,) = rows(1)
    exact = 1
    for width in sorted(widths - {0, 1}):
        if any(row != lone for row in rows(width)):
            break
        exact = width
    return exact


def _logits(context: Any, info: ModelInfo, width: int) -> list[bytes]:
    """Those of the first token there is, as the first of so many slots."""
    batch = llama_cpp.llama_batch_init(width, 0, 1)
    try:
        for slot in range(width):
            batch.token[slot] = batch.pos[slot] = 0
            batch.n_seq_id[slot] = batch.logits[slot] = 1
            batch.seq_id[slot][0] = slot
        batch.n_tokens = width
        if code := llama_cpp.llama_decode(context, batch):
            raise EngineFailed(f"llama_decode returned {code}")
        size = info.vocabulary_tokens * ctypes.sizeof(ctypes.c_float)
        rows = (llama_cpp.llama_get_logits_ith(context, slot) for slot in range(width))
        return [ctypes.string_at(row, size) for row in rows]
    finally:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        llama_cpp.llama_batch_free(batch)
