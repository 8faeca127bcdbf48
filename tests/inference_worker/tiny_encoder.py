"""A GGUF of an encoder that knows letters: random weights, 32 wide, one layer, a rank head.

It says nothing of sense; what llama.cpp makes of it, and what the engine makes of that, is real.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEADS, INNER, CONTEXT_TOKENS = 32, 4, 64, 64
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = 2, 3
TOKENS = (*SPECIAL, *(f"\u2581{letter}" for letter in LETTERS), *LETTERS)
RANK = 4
"""llama.cpp's number of this pooling."""

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_FORMATS = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}
_ALIGNMENT = 32

Tensors = Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]


def tensors() -> Tensors:
    """The weights by name, the same each time; matrices are rows of outputs, as in numpy."""
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
    metadata = _metadata()
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(known), len(metadata))
    head += b"".join(_text(key) + _value(*value) for key, value in metadata.items())
    offset, bodies = 0, []
    for name, tensor in known.items():
        sizes = tensor.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, offset)
        bodies.append(_padded(tensor.tobytes()))
        offset += len(bodies[-1])
    path.write_bytes(_padded(head) + b"".join(bodies))
    return path


def _metadata() -> dict[str, tuple[int, Any]]:
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


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: Any) -> bytes:
    return struct.pack("<I", kind) + _bare(kind, value)


def _bare(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        inner: int
        elements: Sequence[Any]
        inner, elements = value
        bodies = b"".join(_bare(inner, element) for element in elements)
        return struct.pack("<IQ", inner, len(elements)) + bodies
    return struct.pack(_FORMATS[kind], value)


def _padded(body: bytes) -> bytes:
    return body + bytes(-len(body) % _ALIGNMENT)
