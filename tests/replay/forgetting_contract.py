"""The contract of a log that forgets: what its producers make known to it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from log_harness import (
    LEASE_S,
    REPLACED,
    STOPPED,
    Harness,
    append,
    body,
    close,
    keyed,
    opened,
    restored,
    said,
)

from replay.errors import OffsetExpired, SessionNotFound
from replay.log_values import (
    Append,
    AppendResult,
    AppendStatus,
    Attached,
    Claim,
    ClaimStatus,
    Restored,
)
from replay.records import State, Token, unpack_tokens

ENDED = Restored(ClaimStatus.ENDED)
FENCED = Restored(ClaimStatus.FENCED)


class ForgettingContract:
    """What every log is told again."""

    async def test_a_claim_is_made_known_again(self, harness: Harness) -> None:
        log = harness.log
        record, claim = await said(log, b"one", b"two")
        await harness.restart(record.ref)
        await harness.alter(record.ref, attempt=0, nonce="", state=State.QUEUED, lease_until_ms=0)
        assert await log.renew([claim], LEASE_S) == [ClaimStatus.FORGOTTEN]
        assert (await append(log, claim, 6, b"x")).status is AppendStatus.FORGOTTEN
        assert (await close(log, claim, 6)).status is AppendStatus.FORGOTTEN
        again = await restored(log, claim, record)
        assert again == Restored(ClaimStatus.RESTORED, 6, 2, whole=False)
        late = await log.claim(record.ref, worker="w2", nonce="late", lease_s=LEASE_S)
        assert late.status is ClaimStatus.HELD
        assert (await append(log, claim, 6, b"three")).status is AppendStatus.APPENDED
        assert (await log.record(record.ref)).doubts == 0

    async def test_redis_is_trusted_again_once_it_has_all_that_was_delivered(
        self, harness: Harness
    ) -> None:
        log = harness.log
        record, claim = await said(log, b"one")
        await harness.restart(record.ref)
        assert await log.renew([claim], LEASE_S) == [ClaimStatus.MOVED]
        for delivered in (None, 6):
            again = await restored(log, claim, record, delivered=delivered)
            assert again == Restored(ClaimStatus.RESTORED, 3, 1, whole=False)
            assert await log.settle([claim], LEASE_S) == [ClaimStatus.MOVED]
        await append(log, claim, 3, b"two")
        again = await restored(log, claim, record, delivered=6)
        assert again == Restored(ClaimStatus.RESTORED, 6, 1, whole=True)
        assert await log.renew([claim], LEASE_S) == [ClaimStatus.RENEWED]

    @pytest.mark.parametrize(
        ("is_now", "told"),
        [
            ({"nonce": "other"}, FENCED),
            ({"attempt": 2, "nonce": "other"}, FENCED),
            ({"attempt": 2}, FENCED),
            ({"state": State.COMPLETED, "attempt": 0}, ENDED),
        ],
        ids=["same attempt", "newer", "newer, same nonce", "final"],
    )
    async def test_who_has_lost_the_session_restores_nothing(
        self, harness: Harness, is_now: dict[str, Any], told: Restored
    ) -> None:
        record, claim = await said(harness.log, b"one")
        await harness.alter(record.ref, **is_now)
        before = await harness.log.record(record.ref)
        assert await restored(harness.log, claim, record, delivered=3) == told
        assert await harness.log.record(record.ref) == before

    @pytest.mark.parametrize("route", [False, True], ids=["route lost", "route known"])
    async def test_a_whole_session_is_made_known_again(self, harness: Harness, route: bool) -> None:
        log = harness.log
        record, claim = await said(log, b"one", b"two", name="c::m", traceparent="00-ab")
        ref = record.ref
        await (harness.forget_session(ref) if route else harness.forget(ref.conversation))
        assert await log.renew([claim], LEASE_S) == [ClaimStatus.GONE]
        assert (await append(log, claim, 6, b"x")).status is AppendStatus.GONE
        again = await restored(log, claim, record, delivered=6)
        assert again == Restored(ClaimStatus.RESTORED, 0, 0, whole=False)
        now = await log.record(ref)
        assert (now.attempt, now.nonce, now.worker) == (1, claim.nonce, "w1")
        assert (now.prompt, now.request, now.traceparent) == (
            record.prompt,
            record.request,
            "00-ab",
        )
        assert (now.created_ms, now.state) == (record.created_ms, State.RUNNING)
        tokens = [Token(0), Token(1)]
        assert (await append(log, claim, 0, b"onetwo", tokens=tokens)).end == 6
        assert (await restored(log, claim, record, delivered=6)).whole
        assert await body(log, ref) == b"onetwo"
        assert unpack_tokens(await log.tokens(ref)) == tokens
        for epoch in (None, ref.epoch):
            assert (await log.resolve("t", "c::m", epoch)).ref == ref
        assert [one.ref for one in await log.lookup("t", ["c"])] == [ref]
        assert (await opened(log, "c")).ref.epoch > ref.epoch

    async def test_what_was_erased_is_not_made_known_again(self, harness: Harness) -> None:
        record, claim = await said(harness.log, b"one")
        await harness.log.stop("t", "c", epoch=None, keep=False, reason="client")
        await harness.forget_session(record.ref)
        assert await restored(harness.log, claim, record) == ENDED
        assert await harness.log.record(record.ref) is None
        with pytest.raises(SessionNotFound):
            await harness.log.resolve("t", "c", None)

    async def test_what_was_followed_is_not_made_known_again(self, harness: Harness) -> None:
        record, claim = await said(harness.log, b"one")
        after = (await opened(harness.log)).ref
        await harness.forget_session(record.ref)
        assert await restored(harness.log, claim, record) == ENDED
        assert await harness.log.record(record.ref) is None
        assert (await harness.log.resolve("t", "c", None)).ref == after

    async def test_an_older_session_that_is_live_again_is_replaced_again(
        self, harness: Harness
    ) -> None:
        """The log forgot the newer one, and with it that the older one had ended."""
        log = harness.log
        older, first = await said(log, b"old")
        newer = replace(older, epoch=older.epoch + 5, model="m2")
        claim = Claim(newer.ref, "w2", 1, "second")
        await harness.restart(older.ref)
        again = await restored(log, claim, newer)
        assert again == Restored(ClaimStatus.RESTORED, 0, 0, whole=False)
        record = await log.record(older.ref)
        assert (record.state, record.reason) == (State.STOPPED, "replaced")
        assert await body(log, older.ref) == b"old" + REPLACED
        assert (record.doubt, record.doubts > 0) == (3, True)
        assert (await log.resolve("t", "c", None)).ref == newer.ref
        assert (await log.resolve("t", "c", older.epoch)).ref == older.ref
        assert (await append(log, first, 3, b"x")).status is AppendStatus.ENDED
        assert (await opened(log)).ref.epoch > newer.epoch

    async def test_a_body_that_was_trimmed_is_made_known_from_where_it_begins(
        self, harness: Harness
    ) -> None:
        record, claim = await said(harness.log, b"gone")
        await harness.forget(record.ref.conversation)
        again = await restored(harness.log, claim, record, start=50, delivered=53)
        assert again == Restored(ClaimStatus.RESTORED, 50, 0, whole=False)
        refused = await append(harness.log, claim, 0, b"x")
        assert refused == AppendResult(AppendStatus.AT, 50, 0)
        await append(harness.log, claim, 50, b"kept", tokens=[Token(1)])
        with pytest.raises(OffsetExpired) as error:
            await harness.log.read(record.ref, 0)
        assert error.value.first_offset == 50
        assert await body(harness.log, record.ref, 51) == b"ept"

    async def test_what_its_key_has_opened_is_known_again(self, harness: Harness) -> None:
        record, claim = await said(harness.log, b"one", **keyed())
        among = [record.ref.conversation]
        await harness.forget(among[0])
        assert await harness.log.recall(among, key="k", request_sha256="a") is None
        await restored(harness.log, claim, record)
        found = await harness.log.recall(among, key="k", request_sha256="a")
        assert found == Attached(among[0], record.epoch)

    async def test_tokens_have_no_holes(self, harness: Harness) -> None:
        log = harness.log
        record, claim = await said(log, b"one")
        hole = [Append(claim, 3, b"two", first_token=2, tokens=[Token(2)])]
        assert await log.append(hole) == [AppendResult(AppendStatus.AT, 3, 1)]
        tail = await append(log, claim, 3, b"", first_token=2)
        assert tail == AppendResult(AppendStatus.AT, 3, 1)
        late = await append(log, claim, 0, b"one", first_token=0, tokens=[Token(0)])
        assert late == AppendResult(AppendStatus.AT, 3, 1)
        tokens = [Token(5), Token(6)]
        done = await append(log, claim, 3, b"two", first_token=0, tokens=tokens)
        assert done == AppendResult(AppendStatus.APPENDED, 6, 2)
        only = await append(log, claim, 6, b"", first_token=2, tokens=[Token(7)])
        assert only == AppendResult(AppendStatus.APPENDED, 6, 3)
        none = await append(log, claim, 6, b"!", first_token=3)
        assert none == AppendResult(AppendStatus.APPENDED, 7, 3)
        assert unpack_tokens(await log.tokens(record.ref)) == [*tokens, Token(7)]
        assert (await log.record(record.ref)).token_count == 3

    async def test_a_stop_of_what_was_lost_in_part_ends_where_the_log_ends(
        self, harness: Harness
    ) -> None:
        record, claim = await said(harness.log, b"said", b"lost")
        await harness.restart(record.ref)
        await harness.lose_tail(record.ref, 4, 1)
        await harness.log.stop("t", "c", epoch=None, keep=True, reason="client")
        assert await body(harness.log, record.ref) == b"said" + STOPPED
        assert await restored(harness.log, claim, record) == ENDED
