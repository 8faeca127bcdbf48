"""The contract of thoughts: who may end one, and by which id its session is found."""

from __future__ import annotations

from log_harness import Harness, close, new_session, opened, produced

from replay.identity import SessionRef
from replay.log_values import ThoughtEnd


class ThoughtContract:
    """What every log keeps of orders and ids."""

    async def test_an_order_stands_in_the_record(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log, reasoning_control=True)
        assert (await harness.log.record(ref)).reasoning_end == 0
        for _ in range(2):
            assert await harness.log.end_thought(ref) is ThoughtEnd.ORDERED
        record = await harness.log.record(ref)
        assert (record.reasoning_control, record.reasoning_end) == (1, 1)
        await close(harness.log, claim, 0)
        assert await harness.log.end_thought(ref) is ThoughtEnd.GONE

    async def test_who_waits_for_a_worker_may_be_ordered_too(self, harness: Harness) -> None:
        ref = (await opened(harness.log, reasoning_control=True)).ref
        assert await harness.log.end_thought(ref) is ThoughtEnd.ORDERED

    async def test_no_thought_is_ended_that_was_not_put_under_control(
        self, harness: Harness
    ) -> None:
        ref, _ = await produced(harness.log)
        assert await harness.log.end_thought(ref) is ThoughtEnd.DISABLED
        assert (await harness.log.record(ref)).reasoning_end == 0
        gone = SessionRef("t", "c", "m", ref.epoch + 1)
        assert await harness.log.end_thought(gone) is ThoughtEnd.GONE
        assert await harness.log.record(gone) is None

    async def test_a_session_is_found_by_its_completion_id(self, harness: Harness) -> None:
        awkward = "chatcmpl-100% {x}::\u6f22"
        ref = SessionRef("t", "a/b", "m::{}", 5)
        assert await harness.log.completion(awkward) is None
        await harness.log.name_completion(awkward, ref, 60)
        assert await harness.log.completion(awkward) == ref

    async def test_an_id_is_forgotten_in_time(self, harness: Harness) -> None:
        ref = SessionRef("t", "c", "m", 5)
        await harness.log.name_completion(new_session().completion_id, ref, 60)
        await harness.expire_completion(new_session().completion_id)
        assert await harness.log.completion(new_session().completion_id) is None
