"""gzip as a content coding: whether a client accepts it, and a log as one gzip member. Pure.

Blocks are sent as they are stored, between the head and the trailer of one member: clients that
stop after the first one (httpx does, without a word) would lose what stood in a second. They are
unpacked for the checksum alone, which takes half a millisecond a megabyte.
"""

from __future__ import annotations

import re
import struct
import zlib

from replay.blocks import Block
from replay.records import Chunk

HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Deflate, no name, no time, an unknown system."""

EMPTY_LAST_BLOCK = b"\x03\x00"
TRAILER = struct.Struct("<II")
WEIGHT = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*")


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client names gzip and does not prefer its absence."""
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, _, weight = part.partition(";")
        told = WEIGHT.fullmatch(weight)
        weights[coding.strip()] = float(told[1]) if told else float(not weight.strip())
    gzip = max(weights.get("gzip", 0.0), weights.get("x-gzip", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


class GzipMember:
    """A log, or the rest of one, as it grows. Owned by one response."""

    def __init__(self) -> None:
        self._head = HEAD
        self._crc = 0
        self._size = 0

    def feed(self, stored: Chunk | Block) -> bytes:
        """The next bytes, to be sent; what is not packed yet is packed."""
        block, data = stored if isinstance(stored, Block) else Block.of(stored), stored.data
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        return self._begun() + block.packed

    def finish(self) -> bytes:
        """What stands after the last bytes."""
        return self._begun() + EMPTY_LAST_BLOCK + TRAILER.pack(self._crc, self._size & 0xFFFFFFFF)

    def _begun(self) -> bytes:
        head, self._head = self._head, b""
        return head
