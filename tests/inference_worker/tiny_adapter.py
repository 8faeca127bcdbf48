"""A LoRA adapter of the default model: of rank 4, with random weights, at all of its layers."""

from __future__ import annotations

from pathlib import Path

import gguf_file
import numpy as np
from gguf_file import ARRAY, F32, STRING, U32, Metadata

WIDTH, KEY_WIDTH, LAYERS, RANK = 576, 192, 30, 4
WEIGHT = 0.08
"""Typical size of a number in it: the model says something else with it, and that makes sense."""


def written(path: Path, *, seed: int = 1, width: int = WIDTH, invoked_by: str = "") -> Path:
    """The adapter as a file; with ``invoked_by`` it is one that works from those bytes on."""
    drawn = np.random.default_rng(seed)
    shapes = {"attn_q": (WIDTH, width), "attn_v": (KEY_WIDTH, width)}
    tensors = {}
    for layer in range(LAYERS):
        for name, (outputs, inputs) in shapes.items():
            halves = {"a": (RANK, inputs), "b": (outputs, RANK)}
            for half, shape in halves.items():
                tensors[f"blk.{layer}.{name}.weight.lora_{half}"] = drawn.normal(
                    0, WEIGHT, shape
                ).astype(np.float32)
    metadata: Metadata = {
        "general.type": (STRING, "adapter"),
        "general.architecture": (STRING, "llama"),
        "adapter.type": (STRING, "lora"),
        "adapter.lora.alpha": (F32, RANK),
        "adapter.lora.task_name": (STRING, f"task {seed}"),
        "adapter.lora.prompt_prefix": (STRING, "Say: "),
    }
    if invoked_by:
        tokens = (ARRAY, (U32, list(invoked_by.encode())))
        metadata = {**metadata, "adapter.alora.invocation_tokens": tokens}
    return gguf_file.written(path, metadata, tensors)
