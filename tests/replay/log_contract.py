"""The contract of the session log: every adapter passes all of it.

A test file subclasses ``LogContract`` and gives a ``harness`` fixture.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractAsyncContextManager
from itertools import accumulate, pairwise
from typing import Any, Protocol

import pytest

from replay.blocks import Block
from replay.errors import (
    EpochMismatch,
    IntentMismatch,
    LineFull,
    OffsetExpired,
    SessionExpired,
    SessionNotFound,
    StoppedMeanwhile,
)
from replay.identity import Conversation, SessionRef
from replay.log import (
    CHUNK_BYTES_MAX,
    PAGE_BYTES_MAX,
    PAGE_ENTRIES_MAX,
    Append,
    AppendResult,
    AppendStatus,
    Attached,
    Busy,
    Claim,
    ClaimStatus,
    IfBusy,
    Opened,
    Page,
    Requeued,
)
from replay.records import Chunk, End, NewSession, State, Token, unpack_tokens
from replay.tailer import Tailer

LEASE_S = 60.0
LIMIT_S = 10.0
REPLACED = b': end {"state":"stopped","reason":"replaced"}\n\n'
STOPPED = b': end {"state":"stopped","reason":"client"}\n\n'

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


class Harness(Protocol):
    """An adapter and what only its test may do: let time pass."""

    log: Any

    def channels(self, on_message: Any, on_reset: Any) -> AbstractAsyncContextManager[Any]:
        """The adapter's pub/sub side."""

    async def pass_retention(self, ref: SessionRef) -> None:
        """Lets the session's retention pass."""

    async def expire_lease(self, ref: SessionRef) -> None:
        """Lets the lease of the session's producer expire."""

    async def forget(self, conversation: Conversation) -> None:
        """Loses all that is known of the conversation, as a Redis that comes back may."""

    async def expire_place(self, conversation: Conversation, nonce: str) -> None:
        """Lets a place in the line expire."""

    async def expire_intent(self, conversation: Conversation, key: str) -> None:
        """Lets the time pass for which an idempotency key is remembered."""


def new_session(name: str = "c", *, model: str = "m", owner: str = "", **more: Any) -> NewSession:
    """A session as a node would open it."""
    conversation = name.removesuffix("::" + model) or name
    fields: dict[str, Any] = {
        "conversation": Conversation("t", conversation),
        "name": name,
        "model": model,
        "dialect": "openai.chat",
        "request": '{"messages":[]}',
        "prompt": (1, 70000, 3),
        "prefill_chunk_tokens": 128,
        "completion_id": "chatcmpl-x",
        "id_seed": "seed",
        "retention_s": 7200.0,
        "ping_interval_s": 15,
        "queue_number": 7,
        "owner": owner,
    }
    return NewSession(**{**fields, **more})


async def opened(log: Any, name: str = "c", **more: Any) -> Opened:
    """An opened session, with a nonce of its own."""
    opened.count += 1  # type: ignore[attr-defined]
    nonce = f"nonce-{opened.count}"  # type: ignore[attr-defined]
    result: Opened = await log.open(new_session(name, **more), arrived_ms=math.inf, nonce=nonce)
    return result


opened.count = 0  # type: ignore[attr-defined]


async def asked(
    log: Any, nonce: str, if_busy: IfBusy = IfBusy.REPLACE, name: str = "c", **more: Any
) -> Opened | Attached | Busy:
    """What a POST comes to."""
    new = new_session(name, **more)
    result: Opened | Attached | Busy = await log.open(
        new, arrived_ms=math.inf, nonce=nonce, if_busy=if_busy
    )
    return result


def keyed(key: str = "k", request_sha256: str = "a") -> dict[str, Any]:
    """What a session with an idempotency key is opened with."""
    return {"idempotency_key": key, "request_sha256": request_sha256}


async def claimed(
    log: Any, ref: SessionRef, *, nonce: str = "n", lease_s: float = LEASE_S
) -> Claim:
    """The claim of a worker."""
    result = await log.claim(ref, worker="w1", nonce=nonce, lease_s=lease_s)
    assert result.status is ClaimStatus.CLAIMED
    assert result.claim is not None
    claim: Claim = result.claim
    return claim


async def produced(log: Any, name: str = "c", **more: Any) -> tuple[SessionRef, Claim]:
    """An opened and claimed session."""
    ref = (await opened(log, name, **more)).ref
    return ref, await claimed(log, ref, nonce=f"n{ref.epoch}")


async def append(log: Any, claim: Claim, start: int, data: bytes, **more: Any) -> AppendResult:
    """One append; its result."""
    (result,) = await log.append([Append(claim, start, data, **more)])
    assert isinstance(result, AppendResult)
    return result


async def close(log: Any, claim: Claim, start: int, data: bytes = b"") -> AppendResult:
    """The last append of a completed session."""
    return await append(log, claim, start, data, state=State.COMPLETED, reason="stop")


async def body(log: Any, ref: SessionRef, offset: int = 0) -> bytes:
    """All stored bytes from an offset on, read in pages."""
    found = b""
    while True:
        page: Page = await log.read(ref, offset + len(found))
        found += b"".join(chunk.data for chunk in page.chunks)
        if page.end is not None or not page.chunks:
            return found


async def compacted(log: Any, conversation: Conversation) -> list[SessionRef]:
    """Compacts what has ended, however short it is: each entry becomes a block. What was so."""
    done: list[SessionRef] = []
    for seen in await log.compactable(conversation, settled_s=0, bytes_min=1):
        blocks: list[Block] = []
        while not blocks or blocks[-1].end < seen.end:
            page = await log.read(seen.ref, blocks[-1].end if blocks else seen.first)
            blocks += [Block.of(chunk) for chunk in page.chunks]
        if await log.compact(seen, blocks):
            done.append(seen.ref)
    return done


class LogContract:
    """What every session log keeps."""

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

    async def test_a_session_that_is_made_known_again_has_its_key(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log, **keyed())
        record = await harness.log.record(ref)
        await harness.forget(ref.conversation)
        assert await harness.log.record(ref) is None
        again = await harness.log.restore(claim, record, start=0, delivered=0, lease_s=LEASE_S)
        assert again.status is ClaimStatus.RESTORED
        assert await asked(harness.log, "late", **keyed()) == Attached(ref.conversation, ref.epoch)

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
        for adapter in ("memory_log", "redis_log"):
            monkeypatch.setattr(f"replay.{adapter}.LINE_MAX", 2)
        await produced(harness.log)
        for nonce in ("n1", "n2", "n1"):
            assert isinstance(await asked(harness.log, nonce, IfBusy.QUEUE), Busy)
        with pytest.raises(LineFull):
            await asked(harness.log, "n3", IfBusy.QUEUE)

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
        cautious = await harness.log.claim(ref, worker="w", nonce="x", lease_s=1, suspect=False)
        assert cautious.status is ClaimStatus.HELD
        assert (await claimed(harness.log, ref, nonce="second")).attempt == 2
        assert (await harness.log.record(ref)).claimed_tokens == 1

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

    async def test_what_kills_two_workers_is_poison(self, harness: Harness) -> None:
        ref, _ = await produced(harness.log)
        await harness.expire_lease(ref)
        await harness.log.requeue(await harness.log.look(ref.conversation))
        await claimed(harness.log, ref, nonce="second")
        await harness.expire_lease(ref)
        seen = await harness.log.look(ref.conversation)
        assert await harness.log.requeue(seen) == Requeued(is_poison=True)
        assert (await harness.log.record(ref)).state is State.RUNNING

    async def test_a_dispatch_is_counted_once(self, harness: Harness) -> None:
        ref = (await opened(harness.log)).ref
        look = await harness.log.look(ref.conversation)
        assert await harness.log.redispatch(look) == 2
        assert await harness.log.redispatch(look) == 0

    async def test_a_compacted_log_reads_as_before(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        said = [b"one", b"twenty", b"three"]
        for n, (at, data) in enumerate(zip((0, 3, 9), said, strict=True)):
            await append(harness.log, claim, at, data, first_token=n, tokens=[Token(n)])
        assert await compacted(harness.log, ref.conversation) == []  # it has not ended
        await close(harness.log, claim, 14)
        before = await harness.log.record(ref)
        assert await compacted(harness.log, ref.conversation) == [ref]
        assert await compacted(harness.log, ref.conversation) == []
        for offset in range(15):
            assert await body(harness.log, ref, offset) == b"".join(said)[offset:]
            assert (await harness.log.read(ref, offset)).end == End(State.COMPLETED, "stop", 14)
        record = await harness.log.record(ref)
        assert record.packed_bytes > 0
        assert (record.prompt, await harness.log.tokens(ref)) == ((), b"")
        assert (record.token_count, record.prompt_token_count) == (
            before.token_count,
            before.prompt_token_count,
        )
        assert (await harness.log.resolve("t", "c", None)).packed_bytes == record.packed_bytes
        assert (await append(harness.log, claim, 14, b"!")).status is AppendStatus.ENDED

    async def test_a_compacted_window_begins_where_it_did(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        for i in range(10):
            await append(harness.log, claim, 10 * i, b"%010d" % i, window_bytes=30)
        await close(harness.log, claim, 100)
        with pytest.raises(OffsetExpired) as before:
            await harness.log.read(ref, 0)
        assert await compacted(harness.log, ref.conversation) == [ref]
        with pytest.raises(OffsetExpired) as after:
            await harness.log.read(ref, 0)
        assert after.value.first_offset == before.value.first_offset
        first = after.value.first_offset
        assert len(await body(harness.log, ref, first)) == 100 - first

    async def test_what_was_evicted_is_not_compacted(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await close(harness.log, claim, 0, b"said")
        (seen,) = await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=1)
        assert await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=5) == []
        assert await harness.log.compactable(ref.conversation, settled_s=60, bytes_min=1) == []
        await harness.log.stop("t", "c", epoch=None, keep=False, reason="client")
        assert await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=1) == []
        assert not await harness.log.compact(seen, [Block.of(Chunk(4, b"said"))])
        assert await body(harness.log, ref) == b"said"  # for whoever reads it just now

    async def test_a_plain_session_is_not_worth_compacting(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log, owner="node")
        await close(harness.log, claim, 0, b"said")
        assert await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=1) == []

    async def test_blocks_that_are_not_the_whole_log_are_refused(self, harness: Harness) -> None:
        ref, claim = await produced(harness.log)
        await append(harness.log, claim, 0, b"one")
        await close(harness.log, claim, 3, b"two")
        (seen,) = await harness.log.compactable(ref.conversation, settled_s=0, bytes_min=1)
        one, two = Block.of(Chunk(3, b"one")), Block.of(Chunk(6, b"two"))
        for wrong in ([one], [two], [two, one], [one, one, two], [one, Block.of(Chunk(6, b"o"))]):
            assert not await harness.log.compact(seen, wrong)
        assert await body(harness.log, ref) == b"onetwo"
        assert await harness.log.compact(seen, [one, two])

    async def test_a_tail_in_the_middle_of_a_compaction_misses_nothing(
        self, harness: Harness
    ) -> None:
        ref, claim = await produced(harness.log)
        said = b"".join(b"%04d" % i for i in range(2 * PAGE_ENTRIES_MAX))
        for at in range(0, len(said), 4):
            await append(harness.log, claim, at, said[at : at + 4])
        await close(harness.log, claim, len(said))
        async with (
            asyncio.timeout(LIMIT_S),
            Tailer(harness.log, harness.channels) as tailer,
            tailer.tail(ref, 2) as tail,
        ):
            heard = [await tail.next() for _ in range(PAGE_ENTRIES_MAX // 2)]
            assert await compacted(harness.log, ref.conversation) == [ref]
            heard += [item async for item in tail]
        assert b"".join(item.data for item in heard[:-1]) == said[2:]

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
