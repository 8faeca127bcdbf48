"""The contract of doubts: what a log that forgets tells of what it may have lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from log_harness import (
    LEASE_S,
    Harness,
    append,
    body,
    claimed,
    opened,
    produced,
    restored,
    said,
)

from replay import keys
from replay.identity import Conversation, SessionRef
from replay.log_values import ClaimStatus, Doubt
from replay.records import State, Token

LOST_BYTES = 1 << 20
HEARD_S = 5.0

Writing = Callable[[Harness, SessionRef], Awaitable[Any]]


async def doubt_of(harness: Harness, ref: SessionRef) -> Doubt | None:
    """The session's doubt, as every way to see it tells."""
    doubt = Doubt.of(await harness.log.record(ref))
    pulse = await harness.log.pulse(ref, silence_ms=-1, comment=b"")
    assert pulse.doubt == doubt
    assert (await harness.log.read(ref, pulse.end)).doubt == doubt
    return doubt


@asynccontextmanager
async def hearing(harness: Harness, ref: SessionRef) -> AsyncIterator[list[bytes]]:
    """A block in which the session's channel is heard: afterwards all that it published, no more.

    A cluster passes messages on in their order, but late.
    """
    heard, marks = list[bytes](), asyncio.Queue[bytes]()
    beside = Conversation(ref.tenant, ref.conversation_id + "::beside")

    def on_message(channel: str, payload: bytes) -> None:
        if channel == keys.channel(ref):
            heard.append(payload)
        elif channel.endswith(":channel"):
            marks.put_nowait(payload)

    async with harness.channels(on_message, lambda: None) as channels:
        await channels.subscribe(keys.channel(ref))
        other, claim = await produced(harness.log, beside.id)
        await channels.subscribe(keys.channel(other))
        await append(harness.log, claim, 0, b"first")
        async with asyncio.timeout(HEARD_S):
            assert await marks.get() == b"c0\nfirst"
        heard.clear()
        yield heard
        await append(harness.log, claim, 5, b"last")
        async with asyncio.timeout(HEARD_S):
            assert await marks.get() == b"c5\nlast"


async def _claims(harness: Harness, ref: SessionRef) -> None:
    await harness.expire_lease(ref)
    await claimed(harness.log, ref, nonce="next")


async def _stops(harness: Harness, ref: SessionRef) -> None:
    await harness.log.stop("t", ref.conversation_id, epoch=None, keep=True, reason="client")


async def _reaps(harness: Harness, ref: SessionRef) -> None:
    await harness.expire_lease(ref)
    look = await harness.log.look(ref.conversation)
    assert await harness.log.reap(look, state=State.LOST, reason="orphan", closing=b"")


async def _replaces(harness: Harness, ref: SessionRef) -> None:
    await opened(harness.log, ref.conversation_id)


WRITINGS = pytest.mark.parametrize(
    "writes", [_claims, _stops, _reaps, _replaces], ids=["claim", "stop", "reap", "replace"]
)


class DoubtContract:
    """What every log keeps of doubts."""

    @WRITINGS
    async def test_who_writes_without_the_body_under_another_redis_marks_a_doubt(
        self, harness: Harness, writes: Writing
    ) -> None:
        record, _ = await said(harness.log, b"said")
        await harness.restart(record.ref)
        async with hearing(harness, record.ref) as heard:
            await writes(harness, record.ref)
        doubt = await doubt_of(harness, record.ref)
        assert doubt is not None
        assert (doubt.offset, doubt.end) == (4, 4 + LOST_BYTES)
        assert heard[0] == b"d4 %d" % doubt.number

    @WRITINGS
    async def test_under_the_same_redis_nothing_is_doubted(
        self, harness: Harness, writes: Writing
    ) -> None:
        record, _ = await said(harness.log, b"said")
        async with hearing(harness, record.ref) as heard:
            await writes(harness, record.ref)
        assert await doubt_of(harness, record.ref) is None
        assert not [one for one in heard if one.startswith(b"d")]

    async def test_doubts_add_up_and_no_number_comes_twice(self, harness: Harness) -> None:
        log = harness.log
        record, _ = await said(log, b"said")
        ref, numbers = record.ref, []
        await harness.restart(ref)
        await _claims(harness, ref)
        numbers.append((await log.record(ref)).doubts)
        claim = await claimed(log, ref, nonce="next")
        await append(log, claim, 4, b"more", first_token=1, tokens=[Token(1)])
        await harness.restart(ref)
        await harness.expire_lease(ref)
        await claimed(log, ref, nonce="third")
        doubt = await doubt_of(harness, ref)
        assert doubt is not None
        assert (doubt.offset, doubt.end) == (4, 8 + LOST_BYTES)
        numbers.append(doubt.number)
        # That mark is forgotten too, though it was heard. A restart takes longer than the
        # millisecond that tells two such marks apart.
        await asyncio.sleep(0.002)
        await harness.restart(ref)
        await harness.alter(ref, doubt=0, doubt_end=0, doubts=0)
        await harness.expire_lease(ref)
        await claimed(log, ref, nonce="fourth")
        numbers.append((await log.record(ref)).doubts)
        assert numbers == sorted(set(numbers))

    async def test_who_claims_hears_of_doubts(self, harness: Harness) -> None:
        async def claim(ref: SessionRef, nonce: str) -> tuple[ClaimStatus, bool]:
            result = await harness.log.claim(ref, worker="w", nonce=nonce, lease_s=LEASE_S)
            return result.status, result.doubtful

        ref = (await opened(harness.log)).ref
        assert await claim(ref, "a") == (ClaimStatus.CLAIMED, False)
        await harness.expire_lease(ref)
        await harness.restart(ref)
        for _ in range(2):  # whoever asks again is told no less
            assert await claim(ref, "b") == (ClaimStatus.CLAIMED, True)
        await harness.expire_lease(ref)
        assert await claim(ref, "c") == (ClaimStatus.CLAIMED, True)

    async def test_a_first_claim_under_another_redis_doubts_what_a_forgotten_one_wrote(
        self, harness: Harness
    ) -> None:
        ref = (await opened(harness.log)).ref
        await harness.restart(ref)
        result = await harness.log.claim(ref, worker="w", nonce="n", lease_s=LEASE_S)
        assert result.doubtful
        doubt = await doubt_of(harness, ref)
        assert doubt is not None
        assert doubt.concerns(100_000)
        assert not doubt.concerns(0)

    async def test_a_pulse_gives_a_forgotten_producer_time(self, harness: Harness) -> None:
        log = harness.log
        ref = (await opened(log)).ref

        async def pulse() -> int:
            told = await log.pulse(ref, silence_ms=0, comment=b":\n\n")
            assert told.state is State.QUEUED
            end: int = told.end
            return end

        assert await pulse() == 3
        await harness.restart(ref)
        assert [await pulse(), await pulse()] == [3, 3]
        assert await doubt_of(harness, ref) is None
        await harness.pass_recovery(ref)
        async with hearing(harness, ref) as heard:
            assert [await pulse(), await pulse()] == [6, 9]
        doubt = await doubt_of(harness, ref)
        assert doubt is not None
        assert doubt.offset == 3
        assert heard == [b"d3 %d" % doubt.number, b"c3\n:\n\n", b"c6\n:\n\n"]

    async def test_a_reconciled_session_is_doubted_no_more(self, harness: Harness) -> None:
        record, claim = await said(harness.log, b"said")
        await harness.restart(record.ref)
        assert (await restored(harness.log, claim, record, delivered=4)).whole
        await _claims(harness, record.ref)
        assert await doubt_of(harness, record.ref) is None

    async def test_a_log_with_other_bytes_is_lost(self, harness: Harness) -> None:
        log = harness.log
        record, claim = await said(log, b"same", b"other")
        async with hearing(harness, record.ref) as heard:
            await log.diverge(claim, offset=4, closing=b": end\n\n")
            await log.diverge(claim, offset=2, closing=b": end\n\n")
        now = await log.record(record.ref)
        assert (now.state, now.reason) == (State.LOST, "log")
        doubt = await doubt_of(harness, record.ref)
        assert doubt is not None
        assert (doubt.offset, doubt.end) == (4, 4 + LOST_BYTES)
        assert heard[:2] == [b"d4 %d" % doubt.number, b"c9\n: end\n\n"]
        assert await body(log, record.ref) == b"sameother: end\n\n"
        await harness.forget_session(record.ref)
        await log.diverge(claim, offset=4, closing=b"x")
        assert await log.record(record.ref) is None
