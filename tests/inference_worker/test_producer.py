"""From steps to the log: every byte once and in order, whatever the log answers or loses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import OutOfMemoryError

from inference_worker import outlet, producer
from inference_worker.outlet import Outlet
from inference_worker.producer import Producer
from replay import frames
from replay.errors import LogUnavailable
from replay.identity import SessionRef
from replay.limits import CHUNK_BYTES_MAX
from replay.log_values import Append, AppendResult, AppendStatus, Claim
from replay.records import Chunk, SessionRecord, State, Token

pytestmark = pytest.mark.anyio
LIMIT_S = 30.0
WINDOW = 1 << 20


def claim_of(name: str = "c") -> Claim:
    return Claim(SessionRef("t", name, "m", 1), "w", 1, "n")


class Journal:
    """Logs that answer as Redis does, or as the next of ``faults`` says.

    "refuse": not stored, an error in its place; "lose": stored, and an error in its place; "away":
    nothing stored and nothing answered; "cut": everything stored, nothing answered; "forget": the
    log loses its last entry first. When the faults are used up, all goes well.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = list(faults)
        self.body: dict[str, bytes] = {}
        self.tokens: dict[str, list[Token]] = {}
        self.ends: dict[str, tuple[State, str]] = {}
        self.status: dict[str, AppendStatus] = {}
        self.calls: list[list[Append]] = []
        self.entries: list[Append] = []
        self.at_once = self.most_at_once = 0
        self.open = asyncio.Event()
        self.open.set()

    async def append(self, appends: Sequence[Append]) -> list[AppendResult | Exception]:
        self.calls.append(list(appends))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            await self.open.wait()
            fault = self.faults.pop(0) if self.faults and appends else "ok"
            return self._answer(fault, appends)
        finally:
            self.at_once -= 1

    def _answer(self, fault: str, appends: Sequence[Append]) -> list[AppendResult | Exception]:
        if fault == "away":
            raise LogUnavailable("away")
        if fault == "forget":
            self._forget()
        if fault == "full":
            return [self._full(append) for append in appends]
        if fault == "refuse":
            return [LogUnavailable("refused"), *map(self._store, appends[1:])]
        results = [self._store(append) for append in appends]
        if fault == "cut":
            raise LogUnavailable("cut")
        if fault == "lose":
            return [LogUnavailable("lost"), *results[1:]]
        return list(results)

    def _full(self, append: Append) -> AppendResult | Exception:
        if append.state is not None:  # an end may be written when memory is full
            return self._store(append)
        error = LogUnavailable("append: OOM")
        error.__cause__ = OutOfMemoryError("OOM command not allowed")
        return error

    def _store(self, append: Append) -> AppendResult:
        name = append.claim.ref.conversation_id
        body, tokens = self.body.get(name, b""), self.tokens.setdefault(name, [])
        if (status := self.status.get(name)) is not None:
            return AppendResult(status)
        if name in self.ends:
            return AppendResult(AppendStatus.ENDED)
        if append.start != len(body):
            return AppendResult(AppendStatus.AT, len(body), len(tokens))
        assert append.first_token <= len(tokens)
        self.body[name] = body + append.data
        tokens[append.first_token :] = append.tokens
        self.entries.append(append)
        if append.state is not None:
            self.ends[name] = (append.state, append.reason)
        return AppendResult(AppendStatus.APPENDED, len(body + append.data))

    def _forget(self) -> None:
        """Takes the last bytes of a session that has not ended, and what came after them."""
        for last in reversed(self.entries):
            name = last.claim.ref.conversation_id
            if last.data and name not in self.ends:
                self.body[name] = self.body[name][: last.start]
                del self.tokens[name][last.first_token :]
                self.entries = [
                    entry
                    for entry in self.entries
                    if entry.claim != last.claim
                    or entry.first_token < last.first_token
                    or entry.start < last.start
                ]
                return


class Line:
    """A producer that runs, and one outlet."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.producer = Producer(journal, window_bytes=WINDOW, lease_s=60)  # type: ignore[arg-type]
        self.lost: list[AppendStatus] = []
        self.outlet = self.another("c")

    def another(
        self, name: str, *, ping_interval_s: float = -1, end: int = 0, **more: Any
    ) -> Outlet:
        fields: dict[str, Any] = {"ping_interval_s": ping_interval_s, "end": end}
        record = SessionRecord("t", name, name, "m", 1, dialect="openai.chat", **fields)
        outlet = Outlet(claim_of(name), record, on_lost=self.lost.append, **more)
        self.producer.add(outlet)
        return outlet

    def put(self, data: bytes, *ids: int) -> None:
        self.outlet.put(data, [Token(one) for one in ids])
        self.producer.wake()

    def close(self, data: bytes = b"", *ids: int) -> None:
        self.outlet.close(data, [Token(one) for one in ids], State.COMPLETED, "stop")
        self.producer.wake()

    async def closed(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self.outlet.closed.wait()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.001)  # a flush tells nobody

    def stored(self, name: str = "c") -> tuple[bytes, list[int]]:
        ids = [token.id for token in self.journal.tokens.get(name, [])]
        return self.journal.body.get(name, b""), ids


@asynccontextmanager
async def lines(*faults: str) -> AsyncIterator[Line]:
    line = Line(Journal(*faults))
    task = asyncio.create_task(line.producer.run())
    try:
        yield line
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "RETRY_MIN_S", 0.0005)
    monkeypatch.setattr(producer, "RETRY_MAX_S", 0.002)


async def test_one_flush_is_in_flight_and_the_rest_goes_together() -> None:
    async with lines() as line:
        other = line.another("d")
        line.journal.open.clear()
        line.put(b"a", 1)
        await line.until(lambda: line.journal.at_once)
        calls = len(line.journal.calls)
        for _ in range(10):
            line.put(b"b", 2)
            other.put(b"x")
            for _ in range(5):
                await asyncio.sleep(0)
        assert len(line.journal.calls) == calls
        line.journal.open.set()
        line.close(b"c", 3)
        await line.closed()
        await line.until(lambda: line.journal.body.get("d") == b"x" * 10)
        assert line.journal.most_at_once == 1
        assert len(line.journal.calls) == calls + 1
        assert line.stored() == (b"a" + b"b" * 10 + b"c", [1, *[2] * 10, 3])


async def test_what_is_stored_is_not_sent_again() -> None:
    async with lines() as line:
        for number in range(5):
            line.put(b"x", number)
            await line.until(lambda: not line.outlet.pending)
        line.close()
        await line.closed()
        assert [append.data for append in line.journal.entries] == [b"x"] * 5 + [b""]


async def test_tokens_without_bytes_are_stored_with_what_comes_next_or_alone() -> None:
    async with lines() as line:
        line.put(b"", 1)
        await line.until(lambda: line.stored() == (b"", [1]))
        line.put(b"", 2)
        line.put(b"ab", 3)
        line.put(b"", 4)
        line.close()
        await line.closed()
        assert line.stored() == (b"ab", [1, 2, 3, 4])


async def test_the_last_bytes_and_the_end_go_in_one_append() -> None:
    async with lines() as line:
        line.put(b"said ")
        line.close(b"last", 9)
        line.put(b"too late", 10)
        line.outlet.close(b"twice", (), State.FAILED, "engine")
        await line.closed()
        assert line.stored() == (b"said last", [9])
        assert line.journal.ends == {"c": (State.COMPLETED, "stop")}
        assert line.journal.entries[-1].data.endswith(b"last")
        assert line.lost == []


async def test_an_answer_without_a_byte_ends_too() -> None:
    async with lines() as line:
        line.close()
        await line.closed()
        assert (line.stored(), line.journal.ends["c"][0]) == ((b"", []), State.COMPLETED)


async def test_an_outlet_goes_on_where_its_record_stands() -> None:
    async with lines() as line:
        line.journal.body["d"] = b": queued 1\n\n"
        line.journal.tokens["d"] = [Token(1), Token(2)]
        had = [Chunk(12, b": queued 1\n\n")]
        line.outlet = line.another("d", end=12, body=had, tokens=[Token(1), Token(2)])
        line.put(b"x", 3)
        line.close()
        await line.closed()
        assert line.stored("d") == (b": queued 1\n\nx", [1, 2, 3])


sizes = st.lists(st.integers(0, CHUNK_BYTES_MAX + 5000), min_size=1, max_size=12)


@given(sizes)
def test_a_chunk_is_cut_at_a_units_border_and_at_its_limit(sizes: list[int]) -> None:
    outlet = Outlet(claim_of(), SessionRecord("t", "c", "c", "m", 1), on_lost=print)
    for number, size in enumerate(sizes):
        outlet.put(b"%d" % (number % 10) * size, [Token(number)])
    outlet.close(b"", (), State.COMPLETED, "stop")
    borders = {sum(sizes[:count]) for count in range(len(sizes) + 1)}
    at, first, ended = 0, 0, False
    while not ended:
        append, taken = outlet.next_append(WINDOW)
        assert (append.start, append.first_token) == (at, first)
        assert at + len(append.data) in borders
        assert len(append.data) <= CHUNK_BYTES_MAX or taken == 1
        assert [token.id for token in append.tokens] == list(range(first, first + taken))
        outlet.stored(taken)
        at, first, ended = at + len(append.data), first + taken, append.state is not None
    assert (at, first) == (sum(sizes), len(sizes))


async def test_a_lost_reply_is_healed_by_the_logs_end() -> None:
    async with lines("cut") as line:
        line.journal.open.clear()
        line.put(b"AAAA", 1)
        await line.until(lambda: line.journal.at_once)
        line.put(b"BB", 2)  # cut anew: the next append begins where the first did
        line.journal.open.set()
        await line.until(lambda: line.stored() == (b"AAAABB", [1, 2]))
        line.put(b"CC", 3)
        line.close()
        await line.closed()
        assert line.stored() == (b"AAAABBCC", [1, 2, 3])
        assert line.lost == []


async def test_a_log_that_forgot_its_tail_gets_it_again() -> None:
    async with lines("ok", "ok", "ok", "forget") as line:
        for number, piece in enumerate((b"one ", b"two ", b"three ", b"four")):
            line.put(piece, number)
            await line.until(lambda: not line.outlet.pending)
        line.close()
        await line.closed()
        assert line.stored() == (b"one two three four", [0, 1, 2, 3])


async def test_an_end_that_is_no_border_of_ours_is_no_log_of_ours() -> None:
    async with lines() as line:
        line.put(b"abc", 1)
        await line.until(lambda: not line.outlet.pending)
        line.journal.body["c"] = b"ab"
        line.put(b"def", 2)
        await line.closed()
        assert line.lost == [AppendStatus.AT]
        line.put(b"more")
        assert line.stored()[0] == b"ab"


async def test_an_end_beyond_all_that_was_made_is_no_log_of_ours() -> None:
    async with lines() as line:
        line.journal.body["c"] = b"another producer's"
        line.put(b"abc", 1)
        await line.closed()
        assert line.lost == [AppendStatus.AT]


@pytest.mark.parametrize("status", [AppendStatus.FENCED, AppendStatus.ENDED])
async def test_a_session_that_is_not_ours_any_more_is_told_once_and_left(
    status: AppendStatus,
) -> None:
    async with lines() as line:
        other = line.another("d")
        line.journal.status["c"] = status
        line.put(b"x")
        await line.closed()
        calls = len(line.journal.calls)
        line.put(b"y")
        other.put(b"z")
        line.producer.wake()
        await line.until(lambda: line.stored("d")[0] == b"z")
        assert line.lost == [status]
        assert all(append.claim == other.claim for append in line.journal.calls[calls])
        assert not line.outlet.pending


async def test_refused_appends_are_tried_again_in_order_and_hold_up_no_neighbour() -> None:
    async with lines("refuse", "refuse", "away", "refuse") as line:
        other = line.another("d")
        for number in range(20):
            line.put(b"%02d" % number, number)
            other.put(b"%02d" % number)
            await asyncio.sleep(0)
        line.close()
        other.close(b"", (), State.COMPLETED, "stop")
        await line.closed()
        await line.until(other.closed.is_set)
        whole = b"".join(b"%02d" % number for number in range(20))
        assert line.stored() == (whole, list(range(20)))
        assert line.stored("d")[0] == whole


async def test_a_log_that_is_away_is_asked_again_with_pauses() -> None:
    async with lines(*["away"] * 10) as line:
        line.put(b"x")
        await line.until(lambda: line.stored()[0] == b"x")
        assert len(line.journal.calls) <= 13


async def test_full_memory_ends_the_session_as_failed_storage() -> None:
    async with lines("ok", "full") as line:
        line.put(b"said", 1)
        await line.until(lambda: not line.outlet.pending)
        line.put(b"no room", 2)
        await line.closed()
        closing = frames.closing("openai.chat", State.FAILED, "storage")
        assert line.stored() == (b"said" + closing, [1])
        assert line.journal.ends == {"c": (State.FAILED, "storage")}
        assert len(line.lost) == 1
        line.put(b"later", 3)
        assert not line.outlet.pending


async def test_full_memory_after_a_lost_reply_ends_the_session_too() -> None:
    async with lines("cut", "full", "full", "full") as line:
        line.put(b"said", 1)
        await line.closed()
        assert line.journal.ends == {"c": (State.FAILED, "storage")}
        assert line.stored()[0].startswith(b"said")


async def test_full_memory_ends_a_complete_answer_of_which_much_is_not_stored() -> None:
    """Its end may be written and what comes before it may not: it would be asked for ever."""
    async with lines("ok", *["full"] * 50) as line:
        line.put(b"said", 1)
        await line.until(lambda: not line.outlet.pending)
        line.journal.open.clear()
        line.put(b"x" * CHUNK_BYTES_MAX, 2)
        line.close(b"the last", 3)
        line.journal.open.set()
        await line.closed()
        closing = frames.closing("openai.chat", State.FAILED, "storage")
        assert line.stored() == (b"said" + closing, [1])
        assert line.journal.ends == {"c": (State.FAILED, "storage")}


async def test_beyond_its_backlog_a_takeover_that_is_not_settled_is_given_up_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outlet, "BACKLOG_BYTES_MAX", 100)
    async with lines() as line:
        line.outlet.is_settled = False
        line.put(b"x" * 101, 1)
        await line.until(lambda: line.lost)
        line.producer.settle(line.outlet.claim)
        await line.closed()
        assert line.journal.ends == {"c": (State.FAILED, "storage")}


async def test_beyond_its_backlog_a_session_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "BACKLOG_BYTES_MAX", 100)
    async with lines("ok", *["away"] * 20) as line:
        line.put(b"said", 1)
        await line.until(lambda: not line.outlet.pending)
        line.put(b"x" * 100, 2)
        await line.until(lambda: len(line.journal.faults) < 15)
        assert line.lost == []
        line.put(b"y", 3)
        await line.until(lambda: line.lost)
        assert line.outlet.backlog_bytes < 1000
        await line.closed()
        closing = frames.closing("openai.chat", State.FAILED, "storage")
        assert line.stored() == (b"said" + closing, [1])
        assert line.journal.ends == {"c": (State.FAILED, "storage")}


async def test_the_backlog_is_bounded_while_a_flush_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that takes everything and answers nothing holds a flush for seconds."""
    monkeypatch.setattr(outlet, "BACKLOG_BYTES_MAX", 100)
    async with lines("ok", "cut") as line:
        line.put(b"said", 1)
        await line.until(lambda: not line.outlet.pending)
        line.journal.open.clear()
        line.put(b"on its way", 2)
        await line.until(lambda: line.journal.at_once)
        for number in range(10):
            line.put(b"x" * 30, number)
        assert line.lost and line.outlet.backlog_bytes < 150
        line.close(b"all of it", 3)
        line.journal.open.set()
        await line.closed()
        closing = frames.closing("openai.chat", State.FAILED, "storage")
        assert line.stored()[0] == b"said" + b"on its way" + closing
        assert line.journal.ends == {"c": (State.FAILED, "storage")}


async def test_a_backlog_given_up_after_a_lost_reply_ends_the_session_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an outage begins: the last append was stored, and nobody heard of it."""
    monkeypatch.setattr(outlet, "BACKLOG_BYTES_MAX", 100)
    async with lines("cut", *["away"] * 20) as line:
        line.put(b"said", 1)
        await line.until(lambda: len(line.journal.faults) < 18)
        line.put(b"x" * 200, 2)
        await line.closed()
        assert line.journal.ends == {"c": (State.FAILED, "storage")}
        assert line.stored()[0].startswith(b"said")


@pytest.mark.parametrize(("interval_s", "due"), [(15, 10.0), (1, -4.0), (-1, float("inf"))])
def test_a_keep_alive_is_due_an_interval_after_the_last_bytes(interval_s: int, due: float) -> None:
    record = SessionRecord("t", "c", "c", "m", 1, ping_interval_s=interval_s)
    outlet = Outlet(claim_of(), record, on_lost=print)
    outlet.last_put = 100.0
    assert outlet.ping_due_in(105.0) == due
    outlet.put(b"", [Token(1)])
    assert outlet.ping_due_in(105.0) == due  # a token that shows nothing is silence
    outlet.put(b"x")
    assert outlet.ping_due_in(time.monotonic()) > 0
    outlet.close(b"", (), State.COMPLETED, "stop")
    assert outlet.ping_due_in(1e9) == float("inf")


async def test_keep_alives_come_in_silence_only() -> None:
    async with lines() as line:
        never = line.another("never")
        talks = line.another("talks", ping_interval_s=2)
        line.outlet = line.another("d", ping_interval_s=0.02)
        began_s = time.monotonic()
        while time.monotonic() < began_s + 0.1:
            talks.put(b".")
            line.producer.wake()
            await asyncio.sleep(0.005)  # faster than the interval
        await line.until(lambda: line.stored("d")[0].count(frames.PING) >= 3)
        body = line.stored("d")[0]
        assert body == frames.PING * (len(body) // 3)
        assert len(body) // 3 <= (time.monotonic() - began_s) / 0.02
        assert set(line.stored("talks")[0]) == set(b".")
        assert line.stored("never")[0] == b""
        assert never.end == 0


async def test_keep_alives_do_not_pile_up_while_the_log_is_away() -> None:
    async with lines(*["away"] * 40) as line:
        line.outlet = line.another("d", ping_interval_s=0.002)
        line.put(b"x")
        await line.until(lambda: not line.journal.faults)
        await line.until(lambda: line.stored("d")[0])
        assert line.journal.entries[0].data.count(frames.PING) <= 1


async def test_a_closed_outlet_is_forgotten() -> None:
    async with lines() as line:
        line.put(b"x")
        line.close()
        await line.closed()
        assert line.producer.outlets() == []


unit = st.tuples(st.binary(max_size=6), st.lists(st.integers(0, 99), max_size=3))
fault = st.sampled_from(["ok", "refuse", "lose", "away", "cut", "forget"])


@settings(max_examples=150, deadline=None)
@given(
    units=st.lists(unit, max_size=12),
    other=st.lists(unit, max_size=4),
    faults=st.lists(fault, max_size=12),
    pauses=st.lists(st.integers(0, 6), min_size=12, max_size=12),
)
def test_any_steps_over_any_faults_are_stored_exactly(
    units: list[tuple[bytes, list[int]]],
    other: list[tuple[bytes, list[int]]],
    faults: list[str],
    pauses: list[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(producer, "RETRY_MIN_S", 0.0)
        patch.setattr(producer, "RETRY_MAX_S", 0.0)
        asyncio.run(_play(units, other, faults, pauses))


async def _play(
    units: list[tuple[bytes, list[int]]],
    other: list[tuple[bytes, list[int]]],
    faults: list[str],
    pauses: list[int],
) -> None:
    async with lines(*faults) as line:
        neighbour = line.another("d")
        for number, (data, ids) in enumerate(units):
            line.put(data, *ids)
            if number < len(other):
                neighbour.put(other[number][0], [Token(one) for one in other[number][1]])
            for _ in range(pauses[number]):
                await asyncio.sleep(0)
        for data, ids in other[len(units) :]:
            neighbour.put(data, [Token(one) for one in ids])
        line.close(b"fin")
        neighbour.close(b"", (), State.COMPLETED, "stop")
        line.producer.wake()
        await line.closed()
        async with asyncio.timeout(LIMIT_S):
            await neighbour.closed.wait()
        assert line.stored() == (
            b"".join(data for data, _ in units) + b"fin",
            [one for _, ids in units for one in ids],
        )
        assert line.stored("d") == (
            b"".join(data for data, _ in other),
            [one for _, ids in other for one in ids],
        )
        assert set(line.lost) <= {AppendStatus.ENDED}  # the reply to an end was lost
