"""One session's units: whatever the log has of them, the rest goes on from there, never split."""

from __future__ import annotations

import time
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_worker import outlet as outlets
from inference_worker.outlet import LINGER_S, Outlet
from replay.identity import SessionRef
from replay.limits import CHUNK_BYTES_MAX
from replay.log_values import AppendStatus, Claim, ClaimStatus, Restored
from replay.records import Chunk, SessionRecord, State, Token

WINDOW = 1 << 20
CLAIM = Claim(SessionRef("t", "c", "m", 1), "w", 1, "n")

Unit = tuple[bytes, int]
units_of = st.lists(st.tuples(st.binary(max_size=5), st.integers(0, 3)), max_size=12)


def outlet_of(units: list[Unit] = [], **more: Any) -> Outlet:  # noqa: B006
    """An outlet into which all of this was put; token n has the id n."""
    record = SessionRecord("t", "c", "c", "m", 1, end=more.pop("end", 0))
    outlet = Outlet(CLAIM, record, on_lost=more.pop("on_lost", print), **more)
    for data, count in units:
        first = outlet.token_count
        outlet.put(data, [Token(first + number) for number in range(count)])
    return outlet


def body_of(units: list[Unit]) -> bytes:
    return b"".join(data for data, _ in units)


def flushed(outlet: Outlet) -> tuple[int, bytes, int, list[int]]:
    """What all further appends hold: from where on, the bytes, from which token on, the ids."""
    start, first, data, ids = -1, -1, b"", list[int]()
    while outlet.is_behind:
        append, taken = outlet.next_append(WINDOW)
        if start < 0:
            start, first = append.start, append.first_token
        assert append.start == start + len(data)
        data += append.data
        ids += [token.id for token in append.tokens]
        outlet.stored(taken)
        if append.state is not None:
            outlet.ended()
    return start, data, first, ids


@given(units_of, st.data())
def test_any_border_is_one_to_go_on_from(units: list[Unit], data: st.DataObject) -> None:
    outlet = outlet_of(units)
    flushed(outlet)
    ends = list(accumulate((len(one) for one, _ in units), initial=0))
    counts = list(accumulate((count for _, count in units), initial=0))
    at = data.draw(st.sampled_from(sorted(set(ends))))
    # A log may have the tokens of units without bytes that lie there, or not yet.
    there = [count for end, count in zip(ends, counts, strict=True) if end == at]
    count = data.draw(st.integers(there[0], there[-1]))
    assert outlet.go_on_at(at, count)
    outlet.close(b"fin", (), State.COMPLETED, "stop")
    start, rest, first, ids = flushed(outlet)
    assert (start, rest) == (at, body_of(units)[at:] + b"fin")
    assert first <= count
    assert ids == list(range(first, counts[-1]))


@given(units_of, st.integers(0, 80))
def test_what_lies_between_two_borders_is_not_gone_on_from(units: list[Unit], at: int) -> None:
    outlet = outlet_of(units)
    ends = {0, *accumulate(len(one) for one, _ in units)}
    assert outlet.go_on_at(at, 0) is (at in ends)


@given(units_of.filter(body_of), st.data())
def test_tokens_that_the_log_has_lost_go_with_the_first_bytes(
    units: list[Unit], data: st.DataObject
) -> None:
    outlet = outlet_of(units)
    flushed(outlet)
    total = outlet.token_count
    assert outlet.go_on_at(0, data.draw(st.integers(0, total)))
    start, rest, first, ids = flushed(outlet)
    assert (start, rest, first) == (0, body_of(units), 0)
    assert ids == list(range(total))


cuts_of = st.lists(st.integers(1, 30), max_size=8)


@settings(max_examples=300)
@given(units_of, cuts_of, st.integers(0, 60), st.integers(0, 40), st.binary(max_size=6))
def test_a_difference_is_found_where_its_chunk_begins(
    units: list[Unit], cuts: list[int], flip: int, length: int, more: bytes
) -> None:
    ours = body_of(units)
    outlet = outlet_of(units)
    stored = bytearray(ours[:length] + more)
    if flip < len(stored):
        stored[flip] ^= 1
    borders = [0, *(end for end in accumulate(cuts) if end < len(stored)), len(stored)]
    chunks = [Chunk(end, bytes(stored[start:end])) for start, end in pairwise(borders) if end]
    found = outlet.first_difference(chunks)

    same = next((at for at, byte in enumerate(stored) if at >= len(ours) or byte != ours[at]), None)
    assert (found is None) == (same is None)
    if found is not None and same is not None:
        assert found <= same  # whoever holds another byte must be above it
        holding = next(chunk for chunk in chunks if chunk.start <= same < chunk.end)
        assert found >= holding.start


def test_a_log_that_has_more_is_compared_up_to_our_end() -> None:
    outlet = outlet_of([(b"same", 1), (b"ours", 1)])
    assert outlet.first_difference([Chunk(12, b"sameours+++!")]) == 8
    assert outlet.first_difference([Chunk(4, b"same"), Chunk(12, b"othe+++!")]) == 4
    assert outlet.first_difference([Chunk(8, b"sameours"), Chunk(12, b"+++!")]) == 8


def test_a_body_that_was_trimmed_is_compared_where_it_begins() -> None:
    had = [Chunk(130, b"a" * 10), Chunk(140, b"b" * 10)]
    outlet = outlet_of([(b"c" * 10, 1)], body=had, end=140, tokens=[Token(9)])
    assert (outlet.start, outlet.end, outlet.token_count) == (120, 150, 2)
    assert outlet.first_difference([Chunk(135, b"aaaaabbbbb")]) is None
    assert outlet.first_difference([Chunk(135, b"aaaaabbbbB")]) == 125
    assert (
        outlet.first_difference([Chunk(130, b"aaaaa"), Chunk(150, b"b" * 10 + b"c" * 10)]) is None
    )
    assert outlet.go_on_at(130, 0)
    assert flushed(outlet) == (130, b"b" * 10 + b"c" * 10, 0, [9, 1])
    assert not outlet_of(body=had, end=140).go_on_at(100, 0)


def test_what_was_offered_is_what_readers_may_have() -> None:
    outlet = outlet_of([(b"one", 1), (b"two", 1)])
    assert outlet.offered == 0
    outlet.next_append(WINDOW)  # its answer may be lost
    outlet.put(b"three", ())
    assert (outlet.offered, outlet.delivered) == (6, 6)
    outlet.estrange()
    assert (outlet.offered, outlet.delivered) == (6, None)


def test_an_estranged_outlet_writes_nothing_until_it_has_looked() -> None:
    outlet = outlet_of([(b"one", 1), (b"two", 1)])
    flushed(outlet)
    outlet.estrange()
    outlet.put(b"three", ())
    assert (outlet.is_behind, outlet.pending, outlet.wants_restoring) == (True, False, True)
    assert outlet.restored(Restored(ClaimStatus.RESTORED, 3, 1, whole=False))
    # What readers have comes first; only then may Redis be told that all is well.
    assert (outlet.pending, outlet.wants_restoring) == (True, False)
    append, taken = outlet.next_append(WINDOW)
    assert (append.start, append.data, append.first_token) == (3, b"twothree", 1)
    outlet.stored(taken)
    assert outlet.wants_restoring
    assert outlet.restored(Restored(ClaimStatus.RESTORED, 11, 2, whole=True))
    assert (outlet.pending, outlet.wants_restoring) == (False, False)


def test_an_unsettled_outlet_writes_nothing_however_whole_its_log_is() -> None:
    outlet = outlet_of([(b"one", 1)], is_settled=False)
    assert not outlet.pending
    outlet.estrange()
    assert outlet.restored(Restored(ClaimStatus.RESTORED, 0, 0, whole=True))
    assert not outlet.pending
    outlet.is_settled = True
    assert outlet.pending


def test_an_end_lingers_from_when_it_was_first_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(outlets.time, "monotonic", lambda: now)
    outlet = outlet_of([(b"one", 1)])
    outlet.close(b"", (), State.COMPLETED, "stop")
    assert not outlet.has_lingered
    flushed(outlet)
    assert (outlet.closed.is_set(), outlet.has_lingered) == (True, False)
    now += LINGER_S / 2
    outlet.estrange()
    outlet.ended()  # it is there still
    now += LINGER_S / 2
    assert outlet.has_lingered
    assert outlet.restored(Restored(ClaimStatus.RESTORED, 3, 1))  # but not any more
    assert (outlet.closed.is_set(), outlet.is_behind, outlet.has_lingered) == (False, True, False)
    flushed(outlet)
    assert not outlet.has_lingered


def test_a_backlog_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "BACKLOG_BYTES_MAX", 10)
    lost: list[AppendStatus] = []
    outlet = outlet_of([(b"x" * 10, 1)], on_lost=lost.append)
    assert not outlet.is_overfull
    outlet.put(b"y", ())
    outlet.put(b"too late", ())
    assert (outlet.is_overfull, outlet.end, lost) == (True, 11, [AppendStatus.GONE])
    outlet.give_up("storage")
    start, data, _, ids = flushed(outlet)
    assert (start, ids) == (0, [])
    assert b'"reason":"storage"' in data


def test_what_was_given_up_may_have_been_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = outlet_of([(b"one", 1), (b"two", 1)])
    outlet.next_append(WINDOW)  # stored, and its reply lost
    outlet.give_up("storage")
    assert outlet.go_on_at(6, 2)
    assert flushed(outlet)[0] == 6


def test_what_was_claimed_is_made_known_again_in_one_append_with_its_tokens() -> None:
    half = b"x" * (CHUNK_BYTES_MAX - 1)
    body = [Chunk(len(half) * number, half) for number in (1, 2, 3)]
    record = SessionRecord("t", "c", "c", "m", 1, end=3 * len(half))
    tokens = [Token(number) for number in range(5)]
    outlet = Outlet(CLAIM, record, body=body, tokens=tokens, on_lost=print)
    outlet.put(b"more", [Token(9)])
    outlet.go_on_at(len(half), 0)
    append, taken = outlet.next_append(1 << 30)
    assert (append.start, len(append.data), taken) == (len(half), 2 * len(half), 2)
    assert (append.first_token, list(append.tokens)) == (0, tokens)
