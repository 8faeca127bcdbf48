"""A reader whose log forgets: cut where it may hold other bytes, undisturbed where it does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from log_harness import append, claimed
from test_tailer import Hub, ended, heard, hubs, silent, tried

from replay import tailer
from replay.errors import LogUnavailable, OffsetBeyondEnd, OffsetDoubtful, SessionNotFound
from replay.records import End, State

pytestmark = pytest.mark.anyio


@pytest.fixture
def quick_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailer, "PULSE_TICK_S", 0.01)
    monkeypatch.setattr("replay.topic.PULSE_SLACK_S", 0.02)


def lose(hub: Hub, end: int) -> None:
    """The log restarts without what lies beyond."""
    session = hub.log._sessions[hub.ref]
    session.chunks = [chunk for chunk in session.chunks if chunk.end <= end]
    session.record = replace(session.record, end=end, lease_until_ms=1)
    hub.log.run += "+"
    hub.end = end


async def take_over(hub: Hub, *, unheard: bool = False) -> None:
    """Another worker claims, and marks a doubt."""
    hub.air.deaf = unheard
    hub.claim = await claimed(hub.log, hub.ref, nonce=hub.log.run)
    hub.air.deaf = False


@pytest.mark.parametrize("unheard", [False, True], ids=["heard", "found in the history"])
async def test_a_reader_above_a_doubt_is_cut(unheard: bool) -> None:
    async with hubs() as hub, hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put_all((b"ab", b"cd"))
        assert await heard(tail, 4) == b"abcd"
        lose(hub, 2)
        await take_over(hub, unheard=unheard)
        if unheard:
            hub.air.reset()
        else:
            await hub.put(b"XYZ")  # too late to be taken for what follows
        with pytest.raises(OffsetDoubtful) as told:
            await tail.next()
        assert (told.value.offset, told.value.size) == (4, 2)
        with pytest.raises(OffsetDoubtful):
            await tail.next()


@pytest.mark.parametrize("unheard", [False, True], ids=["heard", "found in the history"])
async def test_a_reader_that_is_not_above_a_doubt_goes_on(unheard: bool) -> None:
    async with hubs() as hub, hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put(b"ab")
        assert await heard(tail, 2) == b"ab"
        await hub.put_unheard(b"cd")  # lost before anybody had it
        lose(hub, 2)
        await take_over(hub, unheard=unheard)
        if unheard:
            hub.air.reset()
        await hub.put(b"XY")
        assert await heard(tail, 2) == b"XY"
        await hub.put(b"Z")
        assert await heard(tail, 1) == b"Z"


async def test_what_waits_for_a_slow_reader_may_have_been_forgotten() -> None:
    async with hubs() as hub, hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put(b"ab")
        assert await heard(tail, 2) == b"ab"
        await hub.put_all((b"cd", b"ef"))  # it has not asked yet
        lose(hub, 2)
        await take_over(hub)
        await hub.put(b"XYZ")
        assert await heard(tail, 3) == b"XYZ"


async def test_what_was_read_for_a_slow_reader_may_have_been_forgotten() -> None:
    async with hubs() as hub:
        await hub.put_all((b"ab", b"cd", b"ef"))
        async with hub.tailer.tail(hub.ref, 0) as tail:
            assert (await tail.next()) is not None  # the rest of the page waits
            lose(hub, 2)
            await take_over(hub)
            await hub.put(b"XYZ")
            assert await heard(tail, 3) == b"XYZ"


async def test_a_page_that_was_read_before_a_doubt_is_not_taken() -> None:
    async with hubs() as hub, hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put(b"ab")
        assert await heard(tail, 2) == b"ab"
        await hub.put_unheard(b"cd")
        hub.log.replies.clear()
        hub.air.reset()
        reading = asyncio.create_task(heard(tail, 3))
        reads = len(hub.log.reads)
        await tried(lambda: len(hub.log.reads) > reads)  # its page holds "cd"
        lose(hub, 2)
        await take_over(hub)
        await hub.put(b"XYZ")
        hub.log.replies.set()
        assert await reading == b"XYZ"


async def test_a_restart_without_a_doubt_disturbs_nobody() -> None:
    """The producer lives, and appends the same bytes again."""
    async with hubs() as hub, hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put_all((b"ab", b"cd"))
        assert await heard(tail, 4) == b"abcd"
        lose(hub, 2)
        hub.air.reset()
        await silent(tail)
        await hub.put(b"cdef")
        assert await heard(tail, 2) == b"ef"


async def test_a_doubt_that_a_reader_was_below_is_none_of_its_own() -> None:
    async with hubs() as hub:
        await hub.put(b"ab")
        lose(hub, 2)
        await take_over(hub)
        await hub.put(b"XYZ")
        doubt = (await hub.log.record(hub.ref)).doubts  # type: ignore[union-attr]
        for offset in (0, 1, 2):
            async with hub.tailer.tail(hub.ref, offset) as tail:
                assert await heard(tail, 5 - offset) == b"abXYZ"[offset:]
                hub.air.tell(hub.ref, b"d2 %d" % doubt)  # heard late
                hub.air.reset()
                await silent(tail)


async def test_who_comes_back_above_a_doubt_is_told_where_to_go_on() -> None:
    async with hubs() as hub:
        await hub.put_all((b"ab", b"cd"))
        lose(hub, 2)
        await take_over(hub)
        await hub.put(b"XYZ")
        for offset in (3, 4, 5, 6):
            with pytest.raises(OffsetDoubtful) as told:
                async with hub.tailer.tail(hub.ref, offset):
                    pass
            assert told.value.size == 2
        beyond = (await hub.log.record(hub.ref)).doubt_end + 1  # type: ignore[union-attr]
        with pytest.raises(OffsetBeyondEnd):
            async with hub.tailer.tail(hub.ref, beyond):
                pass


async def test_a_second_doubt_concerns_who_read_after_the_first() -> None:
    async with hubs() as hub:
        await hub.put(b"ab")
        lose(hub, 2)
        await take_over(hub)
        await hub.put(b"XYZ")
        async with hub.tailer.tail(hub.ref, 0) as above, hub.tailer.tail(hub.ref, 2) as below:
            assert await heard(above, 5) == b"abXYZ"
            lose(hub, 2)
            await take_over(hub)
            await hub.put(b"!")
            with pytest.raises(OffsetDoubtful):
                await above.next()
            assert await heard(below, 1) == b"!"


async def test_an_end_below_a_reader_is_not_its_end() -> None:
    async with hubs() as hub, hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put_all((b"ab", b"cd"))
        assert await heard(tail, 4) == b"abcd"
        hub.air.tell(hub.ref, b'e{"state":"lost","reason":"log","size":"2"}')
        with pytest.raises(OffsetDoubtful) as told:
            await tail.next()
        assert told.value.size == 2


@pytest.mark.usefixtures("quick_pulse")
async def test_the_pulse_finds_a_doubt_that_nobody_heard() -> None:
    async with hubs() as hub, hub.tailer.tail(hub.ref, 0, ping_interval_s=0.02) as tail:
        await hub.put_all((b"ab", b"cd"))
        assert await heard(tail, 4) == b"abcd"
        lose(hub, 2)
        await take_over(hub, unheard=True)
        with pytest.raises(OffsetDoubtful):
            await tail.next()


@pytest.mark.usefixtures("quick_pulse")
async def test_a_session_that_may_come_back_is_waited_for() -> None:
    waits = True
    async with (
        hubs(may_come_back=lambda: waits) as hub,
        hub.tailer.tail(hub.ref, 0, ping_interval_s=0.02) as tail,
    ):
        await hub.put(b"ab")
        assert await heard(tail, 2) == b"ab"
        session = hub.log._sessions.pop(hub.ref)
        reading = asyncio.create_task(heard(tail, 2))
        asked = hub.log.pulse_count
        await tried_slowly(hub, asked + 3)
        assert not reading.done()
        with pytest.raises(LogUnavailable):
            async with hub.tailer.tail(hub.ref, 1, ping_interval_s=0.02):
                pass
        hub.log._sessions[hub.ref] = session
        await append(hub.log, hub.claim, 2, b"cd")
        assert await reading == b"cd"
        hub.log.forget(hub.ref)
        waits = False
        with pytest.raises(SessionNotFound):
            await tail.next()


async def tried_slowly(hub: Hub, pulses: int) -> None:
    """Until so many pulses were asked for; bounded by the limit around the test."""
    while hub.log.pulse_count < pulses:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.005)


async def test_an_end_after_a_doubt_is_the_end() -> None:
    async with hubs() as hub, hub.tailer.tail(hub.ref, 0) as tail:
        await hub.put(b"ab")
        assert await heard(tail, 2) == b"ab"
        lose(hub, 2)
        await hub.log.stop("t", "c", epoch=None, keep=True, reason="client")
        size = (await hub.log.record(hub.ref)).end  # type: ignore[union-attr]
        await heard(tail, size - 2)
        assert await ended(tail) == End(State.STOPPED, "client", size)
