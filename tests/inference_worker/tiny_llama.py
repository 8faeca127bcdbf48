"""GGUFs of a model that answers: random weights, as wide as llama.cpp's types of weights need."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf_file
import llama_cpp
import numpy as np
from gguf_file import ARRAY, F32, I32, STRING, U32, Metadata, Tensors

WIDTH, HEADS, LAYERS, CONTEXT_TOKENS = 256, 4, 2, 256
PIECES = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
TOKENS = (*PIECES, *(f"t{n}" for n in range(320 - len(PIECES))))
UNKNOWN, PLAIN, CONTROL, BYTE = 2, 1, 3, 6
"""llama.cpp's kinds of tokens."""

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q6_K": 18}
"""Its numbers of what a file's matrices are."""


def tensors() -> Tensors:
    """The weights by name, the same each time."""
    drawn = np.random.default_rng(1)
    known = {name: (len(TOKENS), WIDTH) for name in ("token_embd.weight", "output.weight")}
    norms = ["output_norm.weight"]
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        known |= {f"{block}.{part}.weight": (WIDTH, WIDTH) for part in parts}
        norms += [f"{block}.attn_norm.weight", f"{block}.ffn_norm.weight"]
    matrices = {
        name: drawn.normal(0, WIDTH**-0.5, shape).astype(np.float32)
        for name, shape in known.items()
    }
    return matrices | {name: np.ones(WIDTH, np.float32) for name in norms}


def written(folder: Path, file_type: str) -> Path:
    """The model as a file of this type."""
    path = gguf_file.written(folder / "tiny-F32.gguf", _metadata(), tensors())
    if file_type == "F32":
        return path
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[file_type], 1
    quantized = folder / f"tiny-{file_type}.gguf"
    code = llama_cpp.llama_model_quantize(
        str(path).encode(), str(quantized).encode(), ctypes.byref(params)
    )
    assert code == 0
    return quantized


def _metadata() -> Metadata:
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    kinds += [PLAIN] * (len(TOKENS) - len(kinds))
    return {
        "general.architecture": (STRING, "llama"),
        "llama.block_count": (U32, LAYERS),
        "llama.context_length": (U32, CONTEXT_TOKENS),
        "llama.embedding_length": (U32, WIDTH),
        "llama.feed_forward_length": (U32, WIDTH),
        "llama.attention.head_count": (U32, HEADS),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, TOKENS)),
        "tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * len(TOKENS))),
        "tokenizer.ggml.token_type": (ARRAY, (I32, kinds)),
        "tokenizer.ggml.bos_token_id": (U32, 1),
        "tokenizer.ggml.eos_token_id": (U32, 2),
        "tokenizer.ggml.unknown_token_id": (U32, 0),
    }
