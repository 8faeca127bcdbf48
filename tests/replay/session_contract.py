"""The contract of sessions: how they are opened, written, read, found and stopped."""

from __future__ import annotations

import asyncio
import math
from itertools import accumulate, pairwise

import pytest
from log_harness import (
    LIMIT_S,
    REPLACED,
    STOPPED,
    Harness,
    append,
    body,
    claimed,
    close,
    new_session,
    opened,
    produced,
)

from replay.errors import (
    EpochMismatch,
    OffsetExpired,
    SessionExpired,
    SessionNotFound,
    StoppedMeanwhile,
)
from replay.identity import SessionRef
from replay.limits import CHUNK_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX
from replay.log_values import AppendResult, AppendStatus, Page
from replay.records import End, State, Token, unpack_tokens
from replay.tailer import Tailer

AWKWARD_NAMES = [
    "plain",
    "b::org/model:Q4",
    "a/b//c",
    "100% {sure}",
    "sp ace\u00a0",
    "\U0001f9ea\u6f22",
    "x::y::z::",
    "::",
    "}{",
    "e" * 1024,
]


class SessionContract:
    """What every log keeps of its sessions."""

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    async def test_a_session_is_found_by_the_name_it_was_opened_with(
        self, harness: Harness, name: str
    ) -> None:
        ref = (await opened(harness.log, name)).ref
        record = await harness.log.resolve("t", name, None)
        assert (record.ref, record.name) == (ref, name)
        assert [r.ref for r in await harness.log.lookup("t", [name])] == [ref]
        assert (await harness.log.resolve("t", name, ref.epoch)).ref == ref

    async def test_a_record_comes_back_as_it_was_opened(self, harness: Harness) -> None:
        ref = (await opened(harness.log, "c::m", owner="node-1", traceparent="00-ab")).ref
        record = await harness.log.record(ref)
        assert record.prompt == (1, 70000, 3)
        assert record.request == '{"messages":[]}'
        assert (record.state, record.attempt, record.dispatch) == (State.QUEUED, 0, 1)
        assert (record.owner, record.queue_number) == ("node-1", 7)
        assert (record.retention_ms, record.prompt_token_count) == (7_200_000, 3)
        assert (record.created_ms > 0, record.traceparent) == (True, "00-ab")

    async def test_the_model_may_stand_in_the_name_or_not(self, harness: Harness) -> None:
        ref = (await opened(harness.log, "c::org/m", model="org/m")).ref
        assert ref.conversation_id == "c"
        for name in ("c", "c::org/m"):
            assert (await harness.log.resolve("t", name, None)).ref == ref
        with pytest.raises(SessionNotFound):
            await harness.log.resolve("t", "c::other", None)

    async def test_another_tenant_finds_nothing(self, harness: Harness) -> None:
        await opened(harness.log)
        with pytest.raises(SessionNotFound):
            await harness.log.resolve("other", "c", None)
        assert await harness.log.lookup("other", ["c"]) == []
        stop = harness.log.stop("other", "c", epoch=None, keep=False, reason="client")
        assert await stop is None

    async def test_lookup_matches_exact_names_and_prefixes_before_a_separator(
        self, harness: Harness
    ) -> None:
        for name in ("u::chat1", "u::chat2", "u", "u2", "ux::chat1"):
            await opened(harness.log, name)
        found = await harness.log.lookup("t", ["u"])
        assert {r.name for r in found} == {"u", "u::chat1", "u::chat2"}
        assert {r.name for r in await harness.log.lookup("t", ["u::chat1", "u2"])} == {
            "u::chat1",
            "u2",
        }
        assert await harness.log.lookup("t", ["u::chat", "v"]) == []

    async def test_the_same_nonce_opens_once(self, harness: Harness) -> None:
        first = await harness.log.open(new_session(), arrived_ms=math.inf, nonce="same")
        again = await harness.log.open(new_session(), arrived_ms=math.inf, nonce="same")
        assert again.ref == first.ref

    async def test_a_new_post_ends_the_session_before_it_as_replaced(
        self, harness: Harness
    ) -> None:
        before, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"old")
        after = await opened(harness.log, model="m2")
        assert (after.replaced, after.replaced_dispatch) == (before, 1)
        assert after.ref.epoch > before.epoch
        record = await harness.log.record(before)
        assert (record.state, record.reason) == (State.STOPPED, "replaced")
        assert await body(harness.log, before) == b"old" + REPLACED
        assert (await append(harness.log, claim, 3, b"more")).status is AppendStatus.ENDED
        assert (await harness.log.resolve("t", "c", before.epoch)).ref == before
        assert (await harness.log.resolve("t", "c", None)).ref == after.ref

    async def test_an_ended_session_is_not_replaced_but_followed(self, harness: Harness) -> None:
        before, claim = await produced(harness.log)
        await close(harness.log, claim, 0, b"all")
        assert (await opened(harness.log)).replaced is None
        assert await body(harness.log, before) == b"all"

    async def test_bytes_are_read_from_any_offset(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        pieces = [b"a", "\u00e9\u6f22\U0001f9ea".encode()[:4], b"\xaa" * 4096, b"", b"z"]
        offset = 0
        for piece in pieces:
            offset = (await append(harness.log, claim, offset, piece)).end
        await close(harness.log, claim, offset, b"fin")
        whole = b"".join(pieces) + b"fin"
        for start in {0, 1, 2, 4, 5, 6, 4100, len(whole) - 1, len(whole)}:
            assert await body(harness.log, ref, start) == whole[start:]

    async def test_a_long_log_is_read_in_pages(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        count = PAGE_ENTRIES_MAX + 3
        for i in range(count):
            await append(harness.log, claim, i, b"%d" % (i % 10))
        await close(harness.log, claim, count)
        page = await harness.log.read(ref, 0)
        assert (len(page.chunks), page.end, page.more) == (PAGE_ENTRIES_MAX, None, True)
        assert len(await body(harness.log, ref)) == count

    async def test_a_page_of_large_entries_has_few(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        sizes = [CHUNK_BYTES_MAX, 3, CHUNK_BYTES_MAX - 3, 2 * PAGE_BYTES_MAX, 1, PAGE_BYTES_MAX]
        whole = b"".join(b"%d" % number * size for number, size in enumerate(sizes))
        ends = list(accumulate(sizes))
        for start, end in pairwise([0, *ends]):
            await append(harness.log, claim, start, whole[start:end])
        await close(harness.log, claim, ends[-1])
        for offset in (0, 1, ends[2], ends[2] + 1, ends[3] - 1, ends[3], ends[4], ends[5]):
            page = await harness.log.read(ref, offset)
            besides = sum(len(chunk.data) for chunk in page.chunks[:-1])
            assert besides <= PAGE_BYTES_MAX
            assert (page.end is None) == page.more
            assert await body(harness.log, ref, offset) == whole[offset:]

    async def test_a_repeated_append_does_nothing(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"one")
        again = await append(harness.log, claim, 0, b"onetwo")
        assert again == AppendResult(AppendStatus.AT, 3)
        gap = await append(harness.log, claim, 9, b"x")
        assert gap == AppendResult(AppendStatus.AT, 3)
        assert await body(harness.log, ref) == b"one"

    async def test_tokens_are_kept_with_or_without_bytes(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        tokens = [Token(5), Token(4_000_000_000, 3, 1), Token(0)]
        await append(harness.log, claim, 0, b"", first_token=0, tokens=tokens[:1])
        await append(harness.log, claim, 0, b"ab", first_token=1, tokens=tokens[1:])
        assert unpack_tokens(await harness.log.tokens(ref)) == tokens
        assert (await harness.log.record(ref)).token_count == 3

    async def test_the_end_is_told_with_state_reason_and_size(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"ab")
        await close(harness.log, claim, 2, b"c")
        assert (await harness.log.read(ref, 0)).end == End(State.COMPLETED, "stop", 3)
        assert (await harness.log.read(ref, 3)) == Page([], End(State.COMPLETED, "stop", 3))
        assert (await append(harness.log, claim, 3, b"d")).status is AppendStatus.ENDED

    async def test_an_answer_of_no_bytes_ends(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await close(harness.log, claim, 0)
        assert await harness.log.read(ref, 0) == Page([], End(State.COMPLETED, "stop", 0))

    async def test_the_window_keeps_the_last_bytes_and_tells_the_first(
        self, harness: Harness
    ) -> None:
        ref, claim = await produced(harness.log)
        for i in range(10):
            await append(harness.log, claim, 10 * i, b"%010d" % i, window_bytes=30)
        with pytest.raises(OffsetExpired) as error:
            await harness.log.read(ref, 0)
        first = error.value.first_offset
        assert 60 <= first <= 70
        assert (
            await body(harness.log, ref, first) == b"".join(b"%010d" % i for i in range(10))[first:]
        )

    async def test_a_stop_ends_evicts_and_is_idempotent(self, harness: Harness) -> None:
        older, first = await produced(harness.log)
        await close(harness.log, first, 0, b"x")
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"said")
        stopped = await harness.log.stop("t", "c", epoch=None, keep=False, reason="client")
        assert (stopped.stopped, stopped.state, stopped.reason) == (True, State.STOPPED, "client")
        assert (stopped.ref, stopped.size) == (ref, 4 + len(STOPPED))
        assert (stopped.worker, stopped.was_claimed) == ("w1", True)
        assert await harness.log.stop("t", "c", epoch=None, keep=False, reason="client") is None
        with pytest.raises(SessionNotFound) as error:
            await harness.log.resolve("t", "c", None)
        assert "stopped (client)" in error.value.cause
        for epoch in (older.epoch, ref.epoch):
            with pytest.raises(SessionNotFound):
                await harness.log.resolve("t", "c", epoch)
        assert await harness.log.lookup("t", ["c"]) == []
        assert await body(harness.log, ref) == b"said" + STOPPED  # for whoever reads it just now
        assert (await append(harness.log, claim, 4, b"!")).status is AppendStatus.ENDED

    async def test_a_stop_that_keeps_leaves_what_was_said(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"said")
        for expected in (True, False):
            stopped = await harness.log.stop("t", "c", epoch=ref.epoch, keep=True, reason="client")
            assert stopped.stopped is expected
        record = await harness.log.resolve("t", "c", None)
        assert (record.state, record.reason) == (State.STOPPED, "client")

    async def test_a_stop_of_another_epoch_touches_nothing(self, harness: Harness) -> None:
        ref, _ = await produced(harness.log)
        with pytest.raises(EpochMismatch) as error:
            await harness.log.stop("t", "c", epoch=ref.epoch - 1, keep=False, reason="client")
        assert error.value.current == ref.epoch
        assert (await harness.log.record(ref)).state is State.RUNNING

    async def test_a_stop_refuses_what_came_before_it_and_nothing_later(
        self, harness: Harness
    ) -> None:
        log, new = harness.log, new_session("c::m")
        for name in ("c", "c::m"):
            before_ms = await log.clock_ms(new.conversation)
            await log.stop("t", name, epoch=None, keep=False, reason="client")
            after_ms = await log.clock_ms(new.conversation)
            with pytest.raises(StoppedMeanwhile):
                await log.open(new, arrived_ms=before_ms, nonce=name)
            opened = await log.open(new, arrived_ms=after_ms, nonce=f"{name}, later")
            assert opened.ref.conversation_id == "c"

    async def test_an_epoch_never_comes_twice(self, harness: Harness) -> None:
        epochs = [(await opened(harness.log)).ref.epoch for _ in range(5)]
        await harness.log.stop("t", "c", epoch=None, keep=False, reason="client")
        last = await harness.log.open(new_session(), arrived_ms=math.inf, nonce="z")
        epochs.append(last.ref.epoch)
        assert epochs == sorted(set(epochs))
        with pytest.raises(EpochMismatch):
            await harness.log.resolve("t", "c", epochs[-1] + 10**9)

    async def test_after_its_retention_a_session_is_expired(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await close(harness.log, claim, 0, b"x")
        await harness.pass_retention(ref)
        with pytest.raises(SessionExpired):
            await harness.log.resolve("t", "c", ref.epoch)
        with pytest.raises(SessionNotFound):
            await harness.log.resolve("t", "c", None)
        assert await harness.log.lookup("t", ["c"]) == []

    async def test_a_stop_of_what_has_expired_finds_nothing(self, harness: Harness) -> None:
        ref, _ = await produced(harness.log)
        await harness.forget_session(ref)
        for keep in (True, False):
            stopped = await harness.log.stop("t", "c", epoch=None, keep=keep, reason="client")
            assert stopped is None
        with pytest.raises(SessionNotFound) as error:
            await harness.log.resolve("t", "c", None)
        assert "evicted" not in error.value.cause

    async def test_a_pulse_keeps_a_queued_session_alive_and_no_other(
        self, harness: Harness
    ) -> None:
        ref = (await opened(harness.log)).ref
        pulse = await harness.log.pulse(ref, silence_ms=0, comment=b": queued 1\n\n")
        assert (pulse.state, pulse.end) == (State.QUEUED, 12)
        soon = await harness.log.pulse(ref, silence_ms=60_000, comment=b":\n\n")
        assert soon.end == 12
        claim = await claimed(harness.log, ref)
        running = await harness.log.pulse(ref, silence_ms=0, comment=b":\n\n")
        assert (running.state, running.end) == (State.RUNNING, 12)
        await append(harness.log, claim, 12, b"go")
        assert await body(harness.log, ref) == b": queued 1\n\ngo"
        assert (
            await harness.log.pulse(SessionRef("t", "no", "m", 1), silence_ms=0, comment=b":")
            is None
        )

    async def test_a_tail_joins_history_and_live_without_a_seam(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"stored ")
        async with (
            asyncio.timeout(LIMIT_S),
            Tailer(harness.log, harness.channels) as tailer,
            tailer.tail(ref, 3) as tail,
        ):
            heard = [(await tail.next())]
            await append(harness.log, claim, 7, b"live ")
            await close(harness.log, claim, 12, b"last")
            heard += [item async for item in tail]
        assert b"".join(item.data for item in heard[:-1]) == b"red live last"
        assert heard[-1] == End(State.COMPLETED, "stop", 16)

    async def test_a_tail_ends_at_once_on_a_finished_session(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await close(harness.log, claim, 0, b"done")
        async with (
            asyncio.timeout(LIMIT_S),
            Tailer(harness.log, harness.channels) as tailer,
            tailer.tail(ref, 4) as tail,
        ):
            assert [item async for item in tail] == [End(State.COMPLETED, "stop", 4)]

    async def test_an_opening_an_end_and_an_eviction_are_news(self, harness: Harness) -> None:
        log, here = harness.log, SessionRef("t", "here", "m", 0).conversation

        async def next_news(changed: asyncio.Event) -> None:
            async with asyncio.timeout(LIMIT_S):
                await changed.wait()
            changed.clear()

        async with (
            Tailer(log, harness.channels) as tailer,
            tailer.changes([here]) as changed,
            tailer.changes([SessionRef("t", "elsewhere", "m", 0).conversation]) as other,
        ):
            _, claim = await produced(log, "here")
            await next_news(changed)
            other.clear()  # a connection that is new has news of everything
            await close(log, claim, 0, b"done")
            await next_news(changed)
            await log.stop("t", "here", epoch=None, keep=False, reason="client")
            await next_news(changed)
            assert not other.is_set()
            assert await log.lookup("t", ["here"]) == []
            await opened(log, "here::m2")  # in the same slot
            await next_news(changed)
