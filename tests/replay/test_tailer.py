"""The hub: history and live bytes without a seam, whatever is late, lost, doubled or too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_harness import append, claimed, close, opened, produced

from replay import keys, tailer
from replay.errors import LogUnavailable, OffsetBeyondEnd, OffsetExpired, SessionNotFound
from replay.identity import SessionRef
from replay.limits import PAGE_ENTRIES_MAX
from replay.log_values import Claim, Page, Pulse
from replay.memory_log import MemoryLog
from replay.records import Chunk, End, State
from replay.tail import Tail
from replay.tailer import Tailer
from replay.topic import SILENCE_S

pytestmark = pytest.mark.anyio
LIMIT_S = 30.0
PROMPT_S = 10.0
"""Less than the silence after which a reader would ask for what it has not heard."""
"""What is not lost comes without waiting for a pulse, whose shortest interval here is 15 s."""


class SlowLog(MemoryLog):
    """Counts what it is asked; a reply may come later than what it tells of."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.pulse_count = 0
        self.replies = asyncio.Event()
        self.replies.set()
        self.away = False

    async def read(self, ref: SessionRef, offset: int) -> Page:
        self.reads.append(offset)
        if self.away:
            raise LogUnavailable("read")
        page = await super().read(ref, offset)
        await self.replies.wait()
        return page

    async def pulse(self, ref: SessionRef, *, silence_ms: int, comment: bytes) -> Pulse | None:
        self.pulse_count += 1
        return await super().pulse(ref, silence_ms=silence_ms, comment=comment)

    def forget(self, ref: SessionRef) -> None:
        del self._sessions[ref]


class Air:
    """Pub/sub that confirms when it is told to, and loses what comes while it is deaf."""

    def __init__(self, log: SlowLog) -> None:
        self.confirms = asyncio.Event()
        self.confirms.set()
        self.deaf = False
        self.subscribed: set[str] = set()
        self.reset: Any = None
        self._log = log
        self._on_message: Any = None

    @asynccontextmanager
    async def open(self, on_message: Any, on_reset: Any) -> AsyncIterator[Air]:
        self._on_message, self.reset = on_message, on_reset
        async with self._log.channels(self._hear, on_reset):
            yield self

    async def subscribe(self, channel: str) -> None:
        await self.confirms.wait()
        self.subscribed.add(channel)

    def unsubscribe(self, channel: str) -> None:
        self.subscribed.discard(channel)

    def tell(self, ref: SessionRef, payload: bytes) -> None:
        """A message out of nowhere."""
        self._on_message(keys.channel(ref), payload)

    def _hear(self, channel: str, payload: bytes) -> None:
        if channel in self.subscribed and not self.deaf:
            self._on_message(channel, payload)


class Hub:
    """A hub over both, and one session that is being produced."""

    def __init__(self, log: SlowLog, air: Air, tailer: Tailer) -> None:
        self.log, self.air, self.tailer = log, air, tailer
        self.ref: SessionRef
        self.claim: Claim
        self.end = 0

    async def put(self, data: bytes) -> None:
        self.end = (await append(self.log, self.claim, self.end, data)).end

    async def put_all(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            await self.put(piece)

    async def put_unheard(self, data: bytes) -> None:
        self.air.deaf = True
        await self.put(data)
        self.air.deaf = False

    async def close_unheard(self) -> None:
        self.air.deaf = True
        await close(self.log, self.claim, self.end)
        self.air.deaf = False


@asynccontextmanager
async def hubs(**more: Any) -> AsyncIterator[Hub]:
    log = SlowLog()
    air = Air(log)
    async with Tailer(log, air.open, **more) as one, asyncio.timeout(LIMIT_S):
        hub = Hub(log, air, one)
        hub.ref, hub.claim = await produced(log)
        yield hub


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with hubs() as one:
        yield one


@pytest.fixture
def quick_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailer, "PULSE_TICK_S", 0.01)
    monkeypatch.setattr("replay.topic.PULSE_SLACK_S", 0.02)


async def heard(tail: Tail, size: int) -> bytes:
    """The next bytes, until there are so many."""
    body = b""
    async with asyncio.timeout(PROMPT_S):
        while len(body) < size:
            item = await tail.next()
            assert isinstance(item, Chunk)
            body += item.data
            assert tail.position == item.end
    return body


async def ended(tail: Tail) -> End:
    async with asyncio.timeout(PROMPT_S):
        item = await tail.next()
    assert isinstance(item, End)
    return item


async def tried(condition: Any) -> None:
    """Until the condition holds; bounded by the limit around the test."""
    while True:
        if condition():
            return
        await asyncio.sleep(0)


async def silent(tail: Tail) -> None:
    """Nothing comes, for as long as everything that is ready takes to run."""
    task = asyncio.ensure_future(tail.next())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_late_message_below_the_position_is_dropped(hub: Hub) -> None:
    await hub.put(b"abcdef")
    async with hub.tailer.tail(hub.ref, 0) as tail:
        assert await heard(tail, 6) == b"abcdef"
        hub.air.tell(hub.ref, b"c0\nabc")
        hub.air.tell(hub.ref, b"c0\nabcdef")
        await silent(tail)


async def test_a_message_that_begins_below_the_position_is_cut(hub: Hub) -> None:
    await hub.put(b"abcdef")
    async with hub.tailer.tail(hub.ref, 0) as tail:
        assert await heard(tail, 6) == b"abcdef"
        hub.air.tell(hub.ref, b"c4\nefgh")
        assert await tail.next() == Chunk(8, b"gh")
        hub.air.tell(hub.ref, b"c6\nghij\n")
        assert await tail.next() == Chunk(11, b"ij\n")


@pytest.mark.parametrize("offset", range(7))
async def test_a_resume_in_the_middle_of_live_bytes_gets_the_rest(hub: Hub, offset: int) -> None:
    await hub.put_all([b"ab", b"cd"])
    await hub.put_unheard(b"ef")
    async with hub.tailer.tail(hub.ref, offset) as tail:
        await hub.put(b"gh")
        assert await heard(tail, 8 - offset) == b"abcdefgh"[offset:]


async def test_a_gap_sends_the_reader_back_to_the_history_and_no_further(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put(b"one ")
        assert await heard(tail, 4) == b"one "
        await hub.put_unheard(b"lost ")
        await hub.put(b"two ")
        await hub.put(b"three")
        assert await heard(tail, 14) == b"lost two three"
        reads = len(hub.log.reads)
        await hub.put(b"!")
        assert await heard(tail, 1) == b"!"
        assert len(hub.log.reads) == reads


async def test_an_end_beyond_the_position_brings_what_was_missed_first(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put(b"a")
        assert await heard(tail, 1) == b"a"
        await hub.put_unheard(b"bc")
        await close(hub.log, hub.claim, 3)
        assert await heard(tail, 2) == b"bc"
        assert await ended(tail) == End(State.COMPLETED, "stop", 3)


async def test_a_reader_that_keeps_up_reads_no_history(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put(b"x")
        assert await heard(tail, 1) == b"x"
        for _ in range(50):
            await hub.put(b"x")
            assert await heard(tail, 1) == b"x"
    assert len(hub.log.reads) == 1


async def test_a_reader_that_does_not_keep_up_loses_its_queue_and_not_its_place(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.tail.READER_BYTES_MAX", 100)
    await hub.put(b"start")
    async with hub.tailer.tail(hub.ref, 0) as slow:
        assert await heard(slow, 5) == b"start"
        await hub.put_all([b"0123456789"] * 10)
        assert slow._queued_bytes == 100
        await hub.put(b"!")
        assert (slow._queued_bytes, len(slow._pieces)) == (0, 0)
        await hub.put_all([b"0123456789"] * 30)
        assert slow._queued_bytes <= 100
        whole = b"0123456789" * 10 + b"!" + b"0123456789" * 30
        assert await heard(slow, len(whole)) == whole
    assert hub.log.reads == [0, 5]


async def test_live_bytes_at_the_limit_are_kept(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.tail.READER_BYTES_MAX", 100)
    await hub.put(b"s")
    async with hub.tailer.tail(hub.ref, 0) as tail:
        assert await heard(tail, 1) == b"s"
        for _ in range(5):  # delivered bytes no longer count
            await hub.put_all([b"0123456789"] * 10)
            assert await heard(tail, 100) == b"0123456789" * 10
    assert hub.log.reads == [0]


async def test_an_end_beside_an_overflow_is_not_lost(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.tail.READER_BYTES_MAX", 10)
    async with hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put(b"x")
        assert await heard(tail, 1) == b"x"
        await hub.put(b"0123456789ab")
        await close(hub.log, hub.claim, 13, b"!")
        assert await heard(tail, 13) == b"0123456789ab!"
        assert (await ended(tail)).size == 14


async def test_a_reset_sends_every_reader_back_to_the_history(hub: Hub) -> None:
    other, claim = await produced(hub.log, "other")
    await hub.put(b"abc")
    async with AsyncExitStack() as stack:
        tails = [
            await stack.enter_async_context(hub.tailer.tail(hub.ref, offset))
            for offset in (0, 1, 2)
        ]
        another = await stack.enter_async_context(hub.tailer.tail(other, 0))
        for tail, size in zip(tails, (3, 2, 1), strict=True):
            await heard(tail, size)
        await hub.put_unheard(b"lost")
        hub.air.deaf = True
        await append(hub.log, claim, 0, b"too")
        hub.air.deaf = False
        hub.air.reset()
        for tail in tails:
            assert await heard(tail, 4) == b"lost"
        assert await heard(another, 3) == b"too"


async def test_a_reset_during_a_read_is_not_forgotten(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0) as tail:
        hub.log.replies.clear()
        first = asyncio.ensure_future(heard(tail, 4))
        await tried(lambda: hub.log.reads)
        await hub.put_unheard(b"lost")  # after the read was answered, before the answer came
        hub.air.reset()
        hub.log.replies.set()
        assert await first == b"lost"


async def test_history_is_read_only_after_the_subscription_was_confirmed(hub: Hub) -> None:
    hub.air.confirms.clear()
    await hub.put(b"stored ")

    async def read() -> list[Chunk | End]:
        async with hub.tailer.tail(hub.ref, 0) as tail:
            return [item async for item in tail]

    reader = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    await hub.put(b"between")
    await close(hub.log, hub.claim, hub.end)  # nobody hears this end
    assert hub.log.reads == []
    hub.air.confirms.set()
    async with asyncio.timeout(PROMPT_S):
        items = await reader
    assert b"".join(item.data for item in items[:-1]) == b"stored between"  # type: ignore[union-attr]
    assert items[-1] == End(State.COMPLETED, "stop", 14)


async def test_a_reader_after_the_last_one_left_waits_for_a_new_confirmation(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0):
        assert hub.air.subscribed == {keys.channel(hub.ref)}
    assert hub.air.subscribed == set()
    hub.air.confirms.clear()
    entered = asyncio.ensure_future(hub.tailer.tail(hub.ref, 0).__aenter__())
    await hub.put(b"x")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not entered.done()
    assert hub.log.reads == []
    entered.cancel()
    await asyncio.gather(entered, return_exceptions=True)
    assert hub.tailer.readers == 0


async def test_the_channel_is_kept_until_the_last_reader_has_left(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0) as stays:
        async with hub.tailer.tail(hub.ref, 0):
            pass
        assert hub.air.subscribed == {keys.channel(hub.ref)}
        await hub.put(b"x")
        assert await heard(stays, 1) == b"x"
    assert hub.air.subscribed == set()


async def test_readers_that_want_the_same_page_at_once_share_one_request(hub: Hub) -> None:
    await hub.put(b"history")
    hub.log.replies.clear()
    async with AsyncExitStack() as stack:
        tails = [
            await stack.enter_async_context(hub.tailer.tail(hub.ref, offset))
            for offset in [0] * 20 + [3] * 20
        ]
        readers = [
            asyncio.ensure_future(heard(tail, 7 - offset))
            for tail, offset in zip(tails, [0] * 20 + [3] * 20, strict=True)
        ]
        await tried(lambda: len(hub.log.reads) == 2)
        hub.log.replies.set()
        assert await asyncio.gather(*readers) == [b"history"] * 20 + [b"tory"] * 20
    assert sorted(hub.log.reads) == [0, 3]


async def test_a_reader_that_leaves_takes_the_shared_page_from_nobody(hub: Hub) -> None:
    await hub.put(b"history")
    hub.log.replies.clear()
    async with (
        hub.tailer.tail(hub.ref, 0) as leaving,
        hub.tailer.tail(hub.ref, 0) as staying,
    ):
        leaves = asyncio.ensure_future(heard(leaving, 7))
        stays = asyncio.ensure_future(heard(staying, 7))
        await tried(lambda: hub.log.reads)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        hub.log.replies.set()
        assert await stays == b"history"


async def test_a_reader_is_given_no_page_that_was_read_before_it_came(hub: Hub) -> None:
    """The answer of the first reader's request is older than a message that the second missed."""
    async with hub.tailer.tail(hub.ref, 0) as first:
        hub.log.replies.clear()
        early = asyncio.ensure_future(first.next())
        await tried(lambda: hub.log.reads)
        await close(hub.log, hub.claim, 0)  # heard by the first alone
        async with hub.tailer.tail(hub.ref, 0) as second:
            late = asyncio.ensure_future(ended(second))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            hub.log.replies.set()
            assert (await early, await late) == (End(State.COMPLETED, "stop", 0),) * 2


async def test_a_reset_is_not_answered_from_a_page_that_was_read_before_it(hub: Hub) -> None:
    await hub.put(b"abc")
    async with hub.tailer.tail(hub.ref, 0) as idle, hub.tailer.tail(hub.ref, 3) as asking:
        await heard(idle, 3)
        waiting = asyncio.ensure_future(heard(idle, 4))
        await asyncio.sleep(0)
        hub.log.replies.clear()
        other = asyncio.ensure_future(heard(asking, 4))
        await tried(lambda: hub.log.reads[-1] == 3)
        await hub.put_unheard(b"lost")
        hub.air.reset()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        hub.log.replies.set()
        assert (await other, await waiting) == (b"lost", b"lost")


async def test_a_long_history_is_read_in_pages_while_live_bytes_come(hub: Hub) -> None:
    await hub.put_all(b"%d" % (i % 10) for i in range(PAGE_ENTRIES_MAX + 5))
    async with hub.tailer.tail(hub.ref, 0) as tail:
        first = await heard(tail, 10)
        await hub.put(b"live")
        rest = await heard(tail, PAGE_ENTRIES_MAX + 5 - 10 + 4)
    assert (first + rest).endswith(b"live")
    assert len(first + rest) == PAGE_ENTRIES_MAX + 9
    assert hub.log.reads == [0, PAGE_ENTRIES_MAX]


async def test_a_full_last_page_and_its_end_are_both_found(hub: Hub) -> None:
    await hub.put_all([b"x"] * PAGE_ENTRIES_MAX)
    await close(hub.log, hub.claim, hub.end)
    async with hub.tailer.tail(hub.ref, 0) as tail:
        await heard(tail, PAGE_ENTRIES_MAX)
        assert (await ended(tail)).size == PAGE_ENTRIES_MAX


async def test_an_offset_beyond_the_end_or_below_the_window_is_refused(hub: Hub) -> None:
    await hub.put(b"abc")
    with pytest.raises(OffsetBeyondEnd) as beyond:
        async with hub.tailer.tail(hub.ref, 4):
            pass
    assert beyond.value.size == 3
    async with hub.tailer.tail(hub.ref, 3) as at_end:
        await silent(at_end)
    await append(hub.log, hub.claim, 3, b"d" * 10, window_bytes=9)
    async with hub.tailer.tail(hub.ref, 1) as below:
        with pytest.raises(OffsetExpired) as expired:
            await below.next()
    assert expired.value.first_offset == 3
    assert (hub.tailer.readers, hub.air.subscribed) == (0, set())


async def test_an_offset_of_a_session_that_is_gone_is_told_at_once(hub: Hub) -> None:
    hub.log.forget(hub.ref)
    with pytest.raises(SessionNotFound):
        async with hub.tailer.tail(hub.ref, 1):
            pass


async def test_a_log_that_is_away_is_told_to_the_reader_who_may_come_again(hub: Hub) -> None:
    await hub.put(b"abcd")
    hub.log.away = True
    async with hub.tailer.tail(hub.ref, 2) as tail:
        with pytest.raises(LogUnavailable):
            await tail.next()
        hub.log.away = False
        async with hub.tailer.tail(hub.ref, tail.position) as again:
            assert await heard(again, 2) == b"cd"


async def test_a_reader_who_is_there_waits_until_the_log_is_back(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.tail.RETRY_S", 0.01)
    await hub.put(b"ab")
    async with hub.tailer.tail(hub.ref, 0) as tail:
        assert await heard(tail, 2) == b"ab"
        await hub.put_unheard(b"cd")
        hub.log.away = True
        hub.air.reset()
        rest = asyncio.create_task(heard(tail, 2))
        while len(hub.log.reads) < 4:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        hub.log.away = False
        assert await rest == b"cd"


async def test_but_not_for_ever(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.tail.RETRY_S", 0.01)
    monkeypatch.setattr("replay.tail.OUTAGE_MAX_S", 0.05)
    await hub.put(b"ab")
    async with hub.tailer.tail(hub.ref, 0) as tail:
        assert await heard(tail, 2) == b"ab"
        hub.log.away = True
        hub.air.reset()
        with pytest.raises(LogUnavailable):
            await tail.next()


@pytest.mark.usefixtures("quick_pulse")
async def test_the_pulse_finds_an_end_that_nobody_heard(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0, ping_interval_s=0.02) as tail:
        await hub.put(b"ab")
        assert await heard(tail, 2) == b"ab"
        await hub.close_unheard()
        assert await ended(tail) == End(State.COMPLETED, "stop", 2)


@pytest.mark.usefixtures("quick_pulse")
async def test_the_pulse_finds_bytes_that_nobody_heard(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0, ping_interval_s=0.02) as tail:
        await hub.put(b"ab")
        assert await heard(tail, 2) == b"ab"
        await hub.put_unheard(b"cd")
        assert await heard(tail, 2) == b"cd"


@pytest.mark.usefixtures("quick_pulse")
async def test_the_pulse_tells_that_a_session_is_gone(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0, ping_interval_s=0.02) as tail:
        await hub.put(b"ab")
        assert await heard(tail, 2) == b"ab"
        hub.log.forget(hub.ref)
        with pytest.raises(SessionNotFound):
            await heard(tail, 1)


@pytest.mark.usefixtures("quick_pulse")
async def test_a_session_without_readers_is_never_asked_about(hub: Hub) -> None:
    async with hub.tailer.tail(hub.ref, 0, ping_interval_s=0.02):
        await tried_timed(lambda: hub.log.pulse_count >= 2)
    asked = hub.log.pulse_count
    other, _ = await produced(hub.log, "other")
    async with hub.tailer.tail(other, 0, ping_interval_s=0.02):
        await tried_timed(lambda: hub.log.pulse_count >= asked + 2)
    assert hub.tailer._topics == {}


async def tried_timed(condition: Any) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.005)  # a pulse goes by the clock


@pytest.mark.usefixtures("quick_pulse")
async def test_only_a_waiting_session_is_kept_alive_by_its_readers() -> None:
    asked: list[SessionRef] = []

    async def position(ref: SessionRef) -> bytes:
        asked.append(ref)
        return b": queued 3\n\n"

    async with hubs(waiting=position) as hub:
        waiting = (await opened(hub.log, "waiting")).ref
        async with (
            hub.tailer.tail(waiting, 0, ping_interval_s=0.1) as tail,
            hub.tailer.tail(hub.ref, 0, ping_interval_s=0.1) as running,
        ):
            assert await heard(tail, 12) == b": queued 3\n\n"
            await claimed(hub.log, waiting)
            asked_once = len(asked)
            await tried_timed(lambda: hub.log.pulse_count > 6)
            await silent(running)
        assert asked.count(hub.ref) <= 1  # before the first answer nobody knows that it runs
        assert len(asked) <= asked_once + 1
        for ref, size in ((waiting, 12), (hub.ref, 0)):
            record = await hub.log.record(ref)
            assert record is not None
            assert record.end % 12 == 0
            assert record.end >= size
        assert (await hub.log.read(hub.ref, 0)).chunks == []


@pytest.mark.usefixtures("quick_pulse")
async def test_a_session_that_wants_no_keep_alives_gets_none() -> None:
    async def never(ref: SessionRef) -> bytes:
        raise AssertionError("asked for a keep-alive")

    async with hubs(waiting=never) as hub:
        waiting = (await opened(hub.log, "waiting")).ref
        async with hub.tailer.tail(waiting, 0, ping_interval_s=-1):
            (topic,) = hub.tailer._topics.values()
            topic.heard -= SILENCE_S + 1
            await tried_timed(lambda: hub.log.pulse_count)
        assert (await hub.log.read(waiting, 0)).chunks == []


async def test_idle_readers_of_other_sessions_cost_nothing_per_event(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"offer": 0, "wake": 0}
    offer = Tail.offer

    def counted(tail: Tail, start: int, data: bytes) -> None:
        calls["offer"] += 1
        offer(tail, start, data)

    monkeypatch.setattr(Tail, "offer", counted)
    async with AsyncExitStack() as stack:
        for number in range(500):
            other = (await opened(hub.log, f"idle{number}")).ref
            idle = await stack.enter_async_context(hub.tailer.tail(other, 0))
            stack.push_async_callback(_gone, asyncio.ensure_future(idle.next()))
        tail = await stack.enter_async_context(hub.tailer.tail(hub.ref, 0))
        await hub.put(b"x")
        await heard(tail, 1)
        reads, pulses = len(hub.log.reads), hub.log.pulse_count
        calls["offer"] = 0
        for _ in range(20):
            await hub.put(b"x")
            await heard(tail, 1)
        assert hub.tailer.readers == 501
        assert (calls["offer"], len(hub.log.reads), hub.log.pulse_count) == (20, reads, pulses)


async def _gone(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_release_wakes_who_listens(hub: Hub) -> None:
    async with hub.tailer.listen(hub.ref) as released:
        assert not released.is_set()
        hub.log.release(hub.ref)
        assert released.is_set()
    async with hub.tailer.listen(hub.ref) as again:
        assert not again.is_set()


async def test_a_message_of_a_session_that_nobody_reads_is_dropped(hub: Hub) -> None:
    for payload in (b"c0\nx", b'e{"state":"completed","reason":"stop","size":0}', b"r", b"?"):
        hub.air.tell(hub.ref, payload)
    assert hub.tailer.readers == 0


async def test_nothing_is_left_when_readers_leave_in_the_middle_of_a_read() -> None:
    before = asyncio.all_tasks()
    async with hubs() as hub:
        hub.log.replies.clear()
        async with hub.tailer.tail(hub.ref, 0) as tail:
            reading = asyncio.ensure_future(tail.next())
            await tried(lambda: hub.log.reads)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert len(asyncio.all_tasks()) == len(before) + 1  # the pulse
        assert hub.tailer._topics == {}
    assert asyncio.all_tasks() == before


async def test_nothing_is_left_when_the_subscription_fails() -> None:
    async with hubs() as hub:

        async def refuse(channel: str) -> None:
            raise LogUnavailable("subscribe")

        hub.air.subscribe = refuse  # type: ignore[method-assign]
        with pytest.raises(LogUnavailable):
            async with hub.tailer.tail(hub.ref, 0):
                pass
        assert (hub.tailer._topics, hub.tailer.readers) == ({}, 0)


moves = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 9)),
        st.tuples(st.just("lost"), st.integers(1, 9)),
        st.tuples(st.just("again"), st.integers(0, 40)),
        st.tuples(st.just("reset"), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 12)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(moves=moves, offset=st.integers(0, 5), limit=st.integers(5, 40))
def test_whatever_is_lost_or_doubled_every_reader_gets_every_byte_once(
    moves: list[tuple[str, int]], offset: int, limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("replay.tail.READER_BYTES_MAX", limit)
        asyncio.run(_play(moves, offset))


async def _play(moves: list[tuple[str, int]], offset: int) -> None:
    alphabet = bytes(range(97, 123)) * 20
    async with hubs() as hub:
        await hub.put(alphabet[:5])
        got = b""
        async with hub.tailer.tail(hub.ref, offset) as tail:
            for move, number in moves:
                if move in ("put", "lost"):
                    hub.air.deaf = move == "lost"
                    await hub.put(alphabet[hub.end : hub.end + number])
                    hub.air.deaf = False
                elif move == "again":
                    start = min(number, hub.end)
                    hub.air.tell(hub.ref, b"c%d\n%b" % (start, alphabet[start : hub.end]))
                elif move == "reset":
                    hub.air.reset()
                elif (heard_all := offset + len(got)) < hub.end and number:
                    hub.air.reset()
                    got += await heard(tail, min(number, hub.end - heard_all))
            await close(hub.log, hub.claim, hub.end)
            size = 0
            async for item in tail:
                if isinstance(item, Chunk):
                    got += item.data
                else:
                    size = item.size
        assert (got, size) == (alphabet[offset : hub.end], hub.end)
