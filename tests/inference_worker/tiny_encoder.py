"""A GGUF of an encoder that knows letters: random weights, 32 wide, one layer, a rank head.

It says nothing of sense; what llama.cpp makes of it, and what the engine makes of that, is real.
"""

from __future__ import annotations

from pathlib import Path

import gguf_file
import numpy as np
from gguf_file import ARRAY, BOOL, F32, I32, STRING, U32, Metadata, Tensors

WIDTH, HEADS, INNER, CONTEXT_TOKENS = 32, 4, 64, 64
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = 2, 3
TOKENS = (*SPECIAL, *(f"\u2581{letter}" for letter in LETTERS), *LETTERS)
RANK = 4
"""llama.cpp's number of this pooling."""


def tensors() -> Tensors:
    """The weights by name, the same each time."""
    drawn = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), WIDTH),
        "token_types.weight": (2, WIDTH),
        "position_embd.weight": (CONTEXT_TOKENS, WIDTH),
        "cls.weight": (WIDTH, WIDTH),
        "cls.bias": (WIDTH,),
        "cls.output.weight": (1, WIDTH),
        "cls.output.bias": (1,),
        "blk.0.ffn_up.weight": (INNER, WIDTH),
        "blk.0.ffn_up.bias": (INNER,),
        "blk.0.ffn_down.weight": (WIDTH, INNER),
        "blk.0.ffn_down.bias": (WIDTH,),
    }
    for name in ("q", "k", "v", "output"):
        shapes[f"blk.0.attn_{name}.weight"] = (WIDTH, WIDTH)
        shapes[f"blk.0.attn_{name}.bias"] = (WIDTH,)
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (WIDTH,)
    return {name: drawn.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def written(path: Path, *, has_rank_head: bool = True) -> Path:
    """The model as a file."""
    known = {
        name: tensor
        for name, tensor in tensors().items()
        if has_rank_head or not name.startswith("cls.")
    }
    return gguf_file.written(path, _metadata(), known)


def _metadata() -> Metadata:
    kinds = [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL))
    return {
        "general.architecture": (STRING, "bert"),
        "bert.block_count": (U32, 1),
        "bert.context_length": (U32, CONTEXT_TOKENS),
        "bert.embedding_length": (U32, WIDTH),
        "bert.feed_forward_length": (U32, INNER),
        "bert.attention.head_count": (U32, HEADS),
        "bert.attention.layer_norm_epsilon": (F32, 1e-12),
        "bert.attention.causal": (BOOL, False),
        "bert.pooling_type": (U32, RANK),
        "tokenizer.ggml.model": (STRING, "bert"),
        "tokenizer.ggml.token_type_count": (U32, 2),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, TOKENS)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, kinds)),
        "tokenizer.ggml.padding_token_id": (U32, 0),
        "tokenizer.ggml.unknown_token_id": (U32, 1),
        "tokenizer.ggml.cls_token_id": (U32, CLS),
        "tokenizer.ggml.bos_token_id": (U32, CLS),
        "tokenizer.ggml.seperator_token_id": (U32, SEP),
        "tokenizer.ggml.eos_token_id": (U32, SEP),
        "tokenizer.ggml.mask_token_id": (U32, 4),
    }
