"""The contract of compaction: a log that has ended is made small, and reads as before."""

from __future__ import annotations

import asyncio

import pytest
from log_harness import (
    LIMIT_S,
    Harness,
    append,
    body,
    close,
    compacted,
    produced,
)

from replay.blocks import Block
from replay.errors import (
    OffsetExpired,
)
from replay.limits import PAGE_ENTRIES_MAX
from replay.log_values import AppendStatus
from replay.records import Chunk, End, State, Token
from replay.tailer import Tailer


class ArchiveContract:
    """What every log keeps when it is compacted."""

    async def test_a_compacted_log_reads_as_before(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        said = [b"one", b"twenty", b"three"]
        for n, (at, data) in enumerate(zip((0, 3, 9), said, strict=True)):
            await append(harness.log, claim, at, data, first_token=n, tokens=[Token(n)])
        assert await compacted(harness.log, ref.conversation) == []  # it has not ended
        await close(harness.log, claim, 14)
        before = await harness.log.record(ref)
        assert await compacted(harness.log, ref.conversation) == [ref]
        assert await compacted(harness.log, ref.conversation) == []
        for offset in range(15):
            assert await body(harness.log, ref, offset) == b"".join(said)[offset:]
            assert (await harness.log.read(ref, offset)).end == End(State.COMPLETED, "stop", 14)
        record = await harness.log.record(ref)
        assert record.packed_bytes > 0
        assert (record.prompt, await harness.log.tokens(ref)) == ((), b"")
        assert (record.token_count, record.prompt_token_count) == (
            before.token_count,
            before.prompt_token_count,
        )
        assert (await harness.log.resolve("t", "c", None)).packed_bytes == record.packed_bytes
        assert (await append(harness.log, claim, 14, b"!")).status is AppendStatus.ENDED

    async def test_a_compacted_window_begins_where_it_did(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        for i in range(10):
            await append(harness.log, claim, 10 * i, b"%010d" % i, window_bytes=30)
        await close(harness.log, claim, 100)
        with pytest.raises(OffsetExpired) as before:
            await harness.log.read(ref, 0)
        assert await compacted(harness.log, ref.conversation) == [ref]
        with pytest.raises(OffsetExpired) as after:
            await harness.log.read(ref, 0)
        assert after.value.first_offset == before.value.first_offset
        first = after.value.first_offset
        assert len(await body(harness.log, ref, first)) == 100 - first

    async def test_what_was_evicted_is_not_compacted(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await close(harness.log, claim, 0, b"said")
        (seen,) = await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=1)
        assert await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=5) == []
        assert await harness.log.compactable(ref.conversation, settled_s=60, bytes_min=1) == []
        await harness.log.stop("t", "c", epoch=None, keep=False, reason="client")
        assert await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=1) == []
        assert not await harness.log.compact(seen, [Block.of(Chunk(4, b"said"))])
        assert await body(harness.log, ref) == b"said"  # for whoever reads it just now

    async def test_a_plain_session_is_not_worth_compacting(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log, owner="node")
        await close(harness.log, claim, 0, b"said")
        assert await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=1) == []

    async def test_blocks_that_are_not_the_whole_log_are_refused(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"one")
        await close(harness.log, claim, 3, b"two")
        (seen,) = await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=1)
        one, two = Block.of(Chunk(3, b"one")), Block.of(Chunk(6, b"two"))
        for wrong in ([one], [two], [two, one], [one, one, two], [one, Block.of(Chunk(6, b"o"))]):
            assert not await harness.log.compact(seen, wrong)
        assert await body(harness.log, ref) == b"onetwo"
        assert await harness.log.compact(seen, [one, two])

    async def test_a_tail_in_the_middle_of_a_compaction_misses_nothing(
        self, harness: Harness
    ) -> None:
        ref, claim = await produced(harness.log)
        said = b"".join(b"%04d" % i for i in range(2 * PAGE_ENTRIES_MAX))
        for at in range(0, len(said), 4):
            await append(harness.log, claim, at, said[at : at + 4])
        await close(harness.log, claim, len(said))
        async with (
            asyncio.timeout(LIMIT_S),
            Tailer(harness.log, harness.channels) as tailer,
            tailer.tail(ref, 2) as tail,
        ):
            heard = [await tail.next() for _ in range(PAGE_ENTRIES_MAX // 2)]
            assert await compacted(harness.log, ref.conversation) == [ref]
            heard += [item async for item in tail]
        assert b"".join(item.data for item in heard[:-1]) == said[2:]
