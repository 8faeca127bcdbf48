"""Blocks: what the entries of a settled log are compacted into. Pure.

A block is raw deflate that ends with a full flush, so that it stands alone, and blocks in a row are
still one deflate stream: a client that accepts gzip is sent them as they are stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from replay.records import Chunk

BLOCK_BYTES_MAX = 64 * 1024
"""The most bytes of a block, unpacked; more would save a sixth of what is left, and cost readers
memory."""

RAW_DEFLATE = -zlib.MAX_WBITS
LEVEL = 6
"""Level 9 saves 5 % of what is left, and takes a third more time."""


@dataclass(frozen=True, slots=True)
class Block:
    """Stored bytes, packed: ``size`` of them, which end at offset ``end``."""

    end: int
    size: int
    packed: bytes

    @property
    def start(self) -> int:
        """The offset of the first byte."""
        return self.end - self.size

    @classmethod
    def of(cls, chunk: Chunk) -> Block:
        """The chunk, packed."""
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, RAW_DEFLATE, zlib.DEF_MEM_LEVEL)
        packed = packer.compress(chunk.data) + packer.flush(zlib.Z_FULL_FLUSH)
        return cls(chunk.end, len(chunk.data), packed)

    @property
    def data(self) -> bytes:
        """The bytes, unpacked at each call."""
        return zlib.decompressobj(RAW_DEFLATE).decompress(self.packed)

    def chunk(self) -> Chunk:
        """The same bytes, unpacked."""
        return Chunk(self.end, self.data)

    def cut(self, offset: int) -> Chunk | Block:
        """What lies at ``offset`` and after. The offset must lie within the block."""
        return self if offset <= self.start else self.chunk().cut(offset)


def joined(stored: Iterable[Chunk | Block]) -> list[Chunk | Block]:
    """The same bytes in fewer chunks, none above BLOCK_BYTES_MAX but by an entry's own size."""
    whole: list[Chunk | Block] = []
    parts: list[Chunk] = []
    size = 0
    for one in stored:
        if isinstance(one, Block) or size + len(one.data) > BLOCK_BYTES_MAX:
            whole += _merged(parts)
            parts, size = [], 0
        if isinstance(one, Block):
            whole.append(one)
        else:
            parts.append(one)
            size += len(one.data)
    return whole + _merged(parts)


def _merged(parts: Sequence[Chunk]) -> list[Chunk]:
    return [Chunk(parts[-1].end, b"".join(part.data for part in parts))] if parts else []
