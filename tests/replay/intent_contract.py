"""The contract of intents: what an idempotency key opens, and who waits for their turn."""

from __future__ import annotations

import pytest
from log_harness import (
    Harness,
    asked,
    claimed,
    close,
    keyed,
    new_session,
    opened,
    produced,
)

from replay.errors import (
    IntentMismatch,
    LineFull,
    SessionExpired,
    SessionNotFound,
    StoppedMeanwhile,
)
from replay.identity import Conversation
from replay.log_values import Attached, Busy, IfBusy, Opened
from replay.records import State


class IntentContract:
    """What every log keeps of keys and lines."""

    async def test_a_key_opens_once_and_then_attaches(self, harness: Harness) -> None:
        first = await asked(harness.log, "n1", **keyed())
        again = [await asked(harness.log, f"n{i}", **keyed()) for i in range(2, 5)]
        assert isinstance(first, Opened)
        assert again == 3 * [Attached(Conversation("t", "c"), first.ref.epoch)]
        record = await harness.log.record(first.ref)
        assert (record.state, record.idempotency_key) == (State.QUEUED, "k")
        assert record.request_sha256 == "a"

    async def test_a_key_belongs_to_one_request_of_one_conversation(self, harness: Harness) -> None:
        first = await asked(harness.log, "n1", **keyed())
        with pytest.raises(IntentMismatch):
            await asked(harness.log, "n2", **keyed(request_sha256="b"))
        assert (await harness.log.record(first.ref)).state is State.QUEUED
        other = await asked(harness.log, "n3", name="c::x", **keyed())
        assert isinstance(other, Opened)
        assert isinstance(await asked(harness.log, "n4", **keyed("K")), Opened)

    async def test_a_late_repetition_neither_replaces_nor_heeds_a_stop(
        self, harness: Harness
    ) -> None:
        first = await asked(harness.log, "n1", **keyed())
        live = await opened(harness.log)
        attached = Attached(first.ref.conversation, first.ref.epoch)
        for number, if_busy in enumerate(IfBusy):
            assert await asked(harness.log, f"m{number}", if_busy, **keyed()) == attached
        assert (await harness.log.record(live.ref)).state is State.QUEUED
        await harness.log.stop("t", "c", epoch=None, keep=False, reason="client")
        late = harness.log.open(new_session(**keyed()), arrived_ms=0, nonce="late")
        assert await late == attached
        with pytest.raises(SessionNotFound):
            await harness.log.resolve("t", "c", first.ref.epoch)

    async def test_a_key_outlives_its_session(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log, **keyed())
        await close(harness.log, claim, 0, b"x")
        await harness.pass_retention(ref)
        assert await asked(harness.log, "n2", **keyed()) == Attached(ref.conversation, ref.epoch)
        with pytest.raises(SessionExpired):
            await harness.log.resolve("t", "c", ref.epoch)
        await harness.expire_intent(ref.conversation, "k")
        assert isinstance(await asked(harness.log, "n3", **keyed()), Opened)

    @pytest.mark.parametrize("reason", ["queue", "limit"])
    async def test_what_was_never_begun_holds_no_key(self, harness: Harness, reason: str) -> None:
        first = await asked(harness.log, "n1", **keyed())
        look = await harness.log.look(first.ref.conversation)
        await harness.log.reap(look, state=State.FAILED, reason=reason, closing=b"")
        second = await asked(harness.log, "n2", **keyed(request_sha256="b"))
        assert isinstance(second, Opened)
        again = await asked(harness.log, "n3", **keyed(request_sha256="b"))
        assert again == Attached(second.ref.conversation, second.ref.epoch)

    async def test_a_key_is_recalled_for_its_own_request(self, harness: Harness) -> None:
        first = await asked(harness.log, "n1", name="a::b", **keyed("50% \u007b"))
        among = [Conversation("t", "a::b"), Conversation("t", "a")]
        recall = harness.log.recall
        found = await recall(among, key="50% \u007b", request_sha256="a")
        assert found == Attached(among[0], first.ref.epoch)
        assert await recall(among, key="50% \u007b", request_sha256="b") is None
        assert await recall(among[1:], key="50% \u007b", request_sha256="a") is None
        assert await recall([Conversation("other", "a::b")], key="k", request_sha256="a") is None

    async def test_a_busy_conversation_is_left_alone_where_that_is_asked(
        self, harness: Harness
    ) -> None:
        for if_busy in (IfBusy.ATTACH, IfBusy.REJECT, IfBusy.QUEUE):
            name = f"c-{if_busy}"
            live = await asked(harness.log, "n1", if_busy, name)
            assert isinstance(live, Opened)
            other = await asked(harness.log, "n2", if_busy, name, model="m2")
            attached = Attached(live.ref.conversation, live.ref.epoch)
            assert other == (attached if if_busy is IfBusy.ATTACH else Busy(live.ref))
            assert (await harness.log.look(live.ref.conversation)).ref == live.ref
            assert (await harness.log.record(live.ref)).state is State.QUEUED
            await close(harness.log, await claimed(harness.log, live.ref), 0)
            after = await asked(harness.log, "n2", if_busy, name, model="m2")
            assert isinstance(after, Opened)
            assert (after.replaced, after.ref.epoch > live.ref.epoch) == (None, True)

    async def test_the_line_is_served_in_the_order_of_the_numbers(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        waiting = [("late", 30), ("early", 10), ("second", 20)]

        async def ask(nonce: str, number: int) -> Opened | Attached | Busy:
            return await asked(harness.log, nonce, IfBusy.QUEUE, queue_number=number)

        for one in waiting:
            assert await ask(*one) == Busy(ref)
        await close(harness.log, claim, 0)
        assert [await ask(*one) for one in (waiting[0], waiting[2])] == 2 * [Busy(None)]
        first = await ask(*waiting[1])
        assert isinstance(first, Opened)
        assert [await ask(*one) for one in (waiting[0], waiting[2])] == 2 * [Busy(first.ref)]
        await close(harness.log, await claimed(harness.log, first.ref), 0)
        assert await ask(*waiting[0]) == Busy(None)
        await harness.log.leave_line(ref.conversation, "second")
        assert isinstance(await ask(*waiting[0]), Opened)

    async def test_a_place_that_nobody_renews_is_forgotten(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await asked(harness.log, "dead", IfBusy.QUEUE, queue_number=1)
        await asked(harness.log, "alive", IfBusy.QUEUE, queue_number=2)
        await close(harness.log, claim, 0)
        assert await asked(harness.log, "alive", IfBusy.QUEUE, queue_number=2) == Busy(None)
        await harness.expire_place(ref.conversation, "dead")
        opened_ = await asked(harness.log, "alive", IfBusy.QUEUE, queue_number=2)
        assert isinstance(opened_, Opened)

    async def test_a_stop_refuses_who_waits_in_the_line(self, harness: Harness) -> None:
        await produced(harness.log)
        assert isinstance(await asked(harness.log, "n1", IfBusy.QUEUE), Busy)
        await harness.log.stop("t", "c", epoch=None, keep=False, reason="client")
        with pytest.raises(StoppedMeanwhile):
            await harness.log.open(new_session(), arrived_ms=0, nonce="n1", if_busy=IfBusy.QUEUE)

    async def test_the_line_has_an_end(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for adapter in ("memory_log", "redis_calls"):
            monkeypatch.setattr(f"replay.{adapter}.LINE_MAX", 2)
        await produced(harness.log)
        for nonce in ("n1", "n2", "n1"):
            assert isinstance(await asked(harness.log, nonce, IfBusy.QUEUE), Busy)
        with pytest.raises(LineFull):
            await asked(harness.log, "n3", IfBusy.QUEUE)
