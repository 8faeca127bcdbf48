"""The contract of leases: who produces a session, and who finds that nobody does."""

from __future__ import annotations

from dataclasses import replace

from log_harness import (
    LEASE_S,
    Harness,
    append,
    body,
    claimed,
    close,
    opened,
    produced,
)

from replay.identity import Conversation, SessionRef
from replay.limits import DEATHS_MAX, PROGRESS_TOKENS
from replay.log_values import Append, AppendStatus, Claim, ClaimStatus, Requeued
from replay.records import End, State, Token


async def _dies(harness: Harness, ref: SessionRef) -> Requeued:
    """What a sweeper is told when the session's worker has died."""
    await harness.expire_lease(ref)
    requeued: Requeued = await harness.log.requeue(await harness.log.look(ref.conversation))
    return requeued


class LeaseContract:
    """What every log keeps of claims and of its watch."""

    async def test_only_one_worker_claims(self, harness: Harness) -> None:
        ref, _ = await produced(harness.log)
        other = await harness.log.claim(ref, worker="w2", nonce="other", lease_s=LEASE_S)
        assert other.status is ClaimStatus.HELD
        assert (await harness.log.record(ref)).state is State.RUNNING

    async def test_a_claim_asked_again_is_the_same(self, harness: Harness) -> None:
        ref = (await opened(harness.log)).ref
        assert await claimed(harness.log, ref, nonce="n") == await claimed(
            harness.log, ref, nonce="n"
        )

    async def test_a_newer_attempt_fences_the_one_before(self, harness: Harness) -> None:
        ref, first = await produced(harness.log)
        await append(harness.log, first, 0, b"AAAA")
        await harness.expire_lease(ref)
        second = await claimed(harness.log, ref, nonce="second")
        assert second.attempt == first.attempt + 1
        assert (await append(harness.log, first, 4, b"ZZZZ")).status is AppendStatus.FENCED
        assert (await close(harness.log, first, 4)).status is AppendStatus.FENCED
        assert await harness.log.renew([first, second], LEASE_S) == [
            ClaimStatus.FENCED,
            ClaimStatus.RENEWED,
        ]
        await append(harness.log, second, 4, b"BBBB")
        assert await body(harness.log, ref) == b"AAAABBBB"

    async def test_nobody_claims_an_ended_or_unknown_session(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await close(harness.log, claim, 0)
        late = await harness.log.claim(ref, worker="w", nonce="x", lease_s=1)
        assert late.status is ClaimStatus.ENDED
        unknown = SessionRef("t", "nobody", "m", 1)
        gone = await harness.log.claim(unknown, worker="w", nonce="x", lease_s=1)
        assert gone.status is ClaimStatus.GONE
        (result,) = await harness.log.append([Append(Claim(unknown, "w", 1, "x"), 0, b"x")])
        assert result.status is AppendStatus.GONE
        assert await harness.log.record(unknown) is None

    async def test_the_watch_names_what_is_due_and_forgets_what_has_ended(
        self, harness: Harness
    ) -> None:
        conversation = Conversation("t", "c::x")
        await harness.log.watch(conversation, 0)
        (due,) = await harness.log.due(10)
        assert due.conversation == conversation
        assert await harness.log.look(conversation) is None
        await harness.log.again(due, 60)
        assert await harness.log.due(10) == []
        await harness.log.watch(conversation, -1)
        (due,) = await harness.log.due(10)
        await harness.log.watch(conversation, -2)  # announced anew: the old look removes nothing
        await harness.log.again(due, None)
        (due,) = await harness.log.due(10)
        await harness.log.again(due, None)
        assert await harness.log.due(10) == []

    async def test_an_announcement_puts_no_look_off(self, harness: Harness) -> None:
        conversation = Conversation("t", "c::x")
        await harness.log.watch(conversation, 0)
        (before,) = await harness.log.due(10)
        await harness.log.watch(conversation, 60)
        (due,) = await harness.log.due(10)
        assert due.conversation == conversation
        await harness.log.again(before, None)  # what it saw has been announced anew
        assert await harness.log.due(10) == [due]

    async def test_only_the_lease_that_was_seen_is_reaped(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"ab")
        seen = await harness.log.look(ref.conversation)
        lost = {"state": State.LOST, "reason": "orphan", "closing": b": end\n\n"}
        assert not await harness.log.reap(seen, **lost)  # the lease stands
        await harness.expire_lease(ref)
        assert not await harness.log.reap(seen, **lost)  # not the lease that was seen
        seen = await harness.log.look(ref.conversation)
        assert await harness.log.reap(seen, **lost)
        assert not await harness.log.reap(seen, **lost)
        assert (await harness.log.read(ref, 2)).end == End(State.LOST, "orphan", 9)
        assert await body(harness.log, ref) == b"ab: end\n\n"

    async def test_only_the_lease_that_was_seen_is_given_up(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"ab", tokens=[Token(1)])
        seen = await harness.log.look(ref.conversation)
        assert await harness.log.requeue(seen) == Requeued()  # the lease stands
        await harness.expire_lease(ref)
        assert await harness.log.requeue(seen) == Requeued()  # not the lease that was seen
        seen = await harness.log.look(ref.conversation)
        assert await harness.log.requeue(seen) == Requeued(2)
        assert await harness.log.requeue(seen) == Requeued()
        record = await harness.log.record(ref)
        assert (record.state, record.deaths, record.attempt) == (State.QUEUED, 1, 1)
        assert (await claimed(harness.log, ref, nonce="second")).attempt == 2
        assert (await harness.log.record(ref)).claimed_tokens == 1

    async def test_a_death_counts_once_the_session_has_reached_an_engine(
        self, harness: Harness
    ) -> None:
        log = harness.log
        ref, first = await produced(log)
        await _dies(harness, ref)
        for nonce in ("waits", "waits again"):
            await claimed(log, ref, nonce=nonce)
            await _dies(harness, ref)
            assert (await log.record(ref)).deaths == 1
        entering = await claimed(log, ref, nonce="enters")
        assert await log.enter(first) is ClaimStatus.FENCED
        assert await log.enter(entering) is ClaimStatus.RENEWED
        assert (await log.record(ref)).entered == entering.attempt
        assert await _dies(harness, ref) == Requeued(is_poison=True)
        await close(log, entering, 0)
        assert await log.enter(entering) is ClaimStatus.ENDED
        assert await log.enter(replace(entering, ref=replace(ref, epoch=9))) is ClaimStatus.GONE

    async def test_a_producer_that_was_merely_slow_renews_and_goes_on(
        self, harness: Harness
    ) -> None:
        ref, claim = await produced(harness.log)
        await harness.expire_lease(ref)
        await harness.log.requeue(await harness.log.look(ref.conversation))
        assert await harness.log.renew([claim], LEASE_S) == [ClaimStatus.RENEWED]
        late = await harness.log.claim(ref, worker="w2", nonce="late", lease_s=LEASE_S)
        assert late.status is ClaimStatus.HELD
        assert (await append(harness.log, claim, 0, b"x")).status is AppendStatus.APPENDED

    async def test_who_hands_over_is_not_blamed(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        assert await harness.log.settle([claim], LEASE_S) == [ClaimStatus.RENEWED]
        assert await harness.log.hand_over(claim) == Requeued(2)
        assert await harness.log.hand_over(claim) == Requeued()
        second = await claimed(harness.log, ref, nonce="second")
        assert (second.attempt, (await harness.log.record(ref)).deaths) == (2, 0)
        assert await harness.log.hand_over(claim) == Requeued()
        assert await harness.log.settle([claim, second], LEASE_S) == [
            ClaimStatus.FENCED,
            ClaimStatus.RENEWED,
        ]

    async def test_who_hands_over_counts_for_nothing_however_often(self, harness: Harness) -> None:
        log = harness.log
        ref = (await opened(log)).ref
        for number in range(DEATHS_MAX):
            claim = await claimed(log, ref, nonce=f"n{number}")
            assert (await log.hand_over(claim)).dispatch
        claim = await claimed(log, ref, nonce="dies")
        await harness.expire_lease(ref)
        assert (await log.requeue(await log.look(ref.conversation))).dispatch
        assert (await log.record(ref)).deaths == 1

    async def test_what_was_added_before_a_hand_over_clears_a_suspicion(
        self, harness: Harness
    ) -> None:
        log = harness.log
        ref, _ = await produced(log)
        await harness.expire_lease(ref)
        await log.requeue(await log.look(ref.conversation))
        claim = await claimed(log, ref, nonce="hands over")
        await append(log, claim, 0, b"x", tokens=[Token(1)] * PROGRESS_TOKENS)
        await log.hand_over(claim)
        await log.enter(await claimed(log, ref, nonce="dies too"))
        await harness.expire_lease(ref)
        assert (await log.requeue(await log.look(ref.conversation))).dispatch

    async def test_what_kills_two_workers_is_poison(self, harness: Harness) -> None:
        ref, _ = await produced(harness.log)
        await harness.expire_lease(ref)
        await harness.log.requeue(await harness.log.look(ref.conversation))
        await harness.log.enter(await claimed(harness.log, ref, nonce="second"))
        assert await _dies(harness, ref) == Requeued(is_poison=True)
        assert (await harness.log.record(ref)).state is State.RUNNING

    async def test_new_tokens_clear_a_suspicion(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        for number in range(3):
            tokens = [Token(number)] * PROGRESS_TOKENS
            at, first = number, number * PROGRESS_TOKENS
            await append(harness.log, claim, at, b"x", first_token=first, tokens=tokens)
            await harness.expire_lease(ref)
            seen = await harness.log.look(ref.conversation)
            assert (await harness.log.requeue(seen)).dispatch
            assert (await harness.log.record(ref)).deaths == 1
            claim = await claimed(harness.log, ref, nonce=f"again-{number}")
            await harness.log.enter(claim)

    async def test_a_dispatch_is_counted_once(self, harness: Harness) -> None:
        ref = (await opened(harness.log)).ref
        look = await harness.log.look(ref.conversation)
        assert await harness.log.redispatch(look) == 2
        assert await harness.log.redispatch(look) == 0
