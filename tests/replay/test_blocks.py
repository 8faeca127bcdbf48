"""Blocks hold the same bytes, stand alone, and follow each other as one deflate stream."""

from __future__ import annotations

import zlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from replay.blocks import BLOCK_BYTES_MAX, RAW_DEFLATE, Block, joined
from replay.records import Chunk

parts = st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=20)


def chunked(data: list[bytes], start: int = 0) -> list[Chunk]:
    found: list[Chunk] = []
    for one in data:
        start += len(one)
        found.append(Chunk(start, one))
    return found


@given(parts, st.integers(0, 1000))
def test_a_block_is_its_chunk_from_any_offset(data: list[bytes], start: int) -> None:
    for chunk in chunked(data, start):
        block = Block.of(chunk)
        assert (block.start, block.end, block.chunk()) == (chunk.start, chunk.end, chunk)
        for offset in range(chunk.start, chunk.end):
            cut = block.cut(offset)
            assert (cut.data, cut.end) == (chunk.cut(offset).data, chunk.end)


def test_a_cut_at_its_start_leaves_a_block_packed() -> None:
    block = Block.of(Chunk(15, b"hello"))
    assert block.cut(10) is block and block.cut(3) is block
    assert isinstance(block.cut(11), Chunk)


@given(parts)
def test_blocks_in_a_row_are_one_deflate_stream(data: list[bytes]) -> None:
    packed = b"".join(Block.of(chunk).packed for chunk in chunked(data))
    assert zlib.decompressobj(RAW_DEFLATE).decompress(packed) == b"".join(data)


@given(st.lists(st.integers(1, BLOCK_BYTES_MAX), min_size=1, max_size=12), st.integers(0, 11))
def test_joined_chunks_are_the_same_bytes_in_fewer(sizes: list[int], which: int) -> None:
    chunks: list[Chunk | Block] = list(chunked([bytes(size) for size in sizes], 5))
    which = min(which, len(chunks) - 1)
    packed = chunks[which] = Block.of(chunks[which])
    found = joined(chunks)
    assert packed in found
    assert [one.start for one in found] == [5, *(one.end for one in found[:-1])]
    assert found[-1].end == chunks[-1].end
    assert all(len(one.data) <= BLOCK_BYTES_MAX for one in found)
    for one, after in pairwise(found):
        if packed not in (one, after):
            assert len(one.data) + len(after.data) > BLOCK_BYTES_MAX


def test_an_entry_above_the_limit_stays_whole() -> None:
    large = Chunk(BLOCK_BYTES_MAX + 2, bytes(BLOCK_BYTES_MAX + 1))
    assert joined([Chunk(1, b"x"), large]) == [Chunk(1, b"x"), large]
    assert joined([]) == []
