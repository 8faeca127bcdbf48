"""What a client accepts, and one member that every decoder takes whole."""

from __future__ import annotations

import gzip
import zlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.gzip_coding import GzipMember, accepts_gzip
from replay.blocks import Block
from replay.records import Chunk


@pytest.mark.parametrize(
    "header",
    [
        "gzip",
        "GZIP",
        "x-gzip",
        "gzip, deflate, br, zstd",
        "br;q=1.0, gzip;q=0.8, *;q=0.1",
        "identity;q=0.5, gzip;q=0.5",
        "identity;q=0, gzip ; q=0.001",
        "gzip;q=1.000",
    ],
)
def test_gzip_that_is_named_is_accepted(header: str) -> None:
    assert accepts_gzip(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "identity",
        "*",
        "br, deflate",
        "gzip;q=0",
        "gzip;q=0.000, *",
        "gzip;q=0.5, identity",
        "gzip;q=2",
        "gzip;level=9",
        "not-gzip",
        "gzipped",
    ],
)
def test_anything_else_is_sent_as_it_is(header: str) -> None:
    assert not accepts_gzip(header)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.booleans()), max_size=8))
def test_a_member_is_the_bytes_however_they_are_stored(parts: list[tuple[bytes, bool]]) -> None:
    member, sent, end = GzipMember(), b"", 0
    for data, is_packed in parts:
        end += len(data)
        chunk = Chunk(end, data)
        sent += member.feed(Block.of(chunk) if is_packed else chunk)
    sent += member.finish()
    whole = b"".join(data for data, _ in parts)
    assert gzip.decompress(sent) == whole
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)  # of one member
    assert decoder.decompress(sent) == whole and decoder.eof and not decoder.unused_data
    assert httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=sent).content == whole


def test_each_part_can_be_read_as_it_comes() -> None:
    member, decoder = GzipMember(), zlib.decompressobj(zlib.MAX_WBITS | 16)
    for end, data in ((3, b"one"), (6, b"two")):
        assert decoder.decompress(member.feed(Block.of(Chunk(end, data)))) == data
