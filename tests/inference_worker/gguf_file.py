"""Writes GGUF files of 32-bit floats."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_FORMATS = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}
_ALIGNMENT = 32

Metadata = Mapping[str, tuple[int, Any]]
"""Kinds and values; an array's value is its elements' kind, and they."""
Tensors = Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]
"""Matrices are rows of outputs, as in numpy."""


def written(path: Path, metadata: Metadata, tensors: Tensors) -> Path:
    """The file."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join(_text(key) + _value(*value) for key, value in metadata.items())
    offset, bodies = 0, []
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, offset)
        bodies.append(_padded(tensor.tobytes()))
        offset += len(bodies[-1])
    path.write_bytes(_padded(head) + b"".join(bodies))
    return path


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
