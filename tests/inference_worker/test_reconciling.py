"""A producer whose log forgets: made known again, compared, completed, or told that it is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from log_harness import append, body, claimed, close, compacted, opened

from inference_worker import outlet as outlets
from inference_worker.outlet import Outlet
from inference_worker.producer import Producer, stored_chunks
from replay.errors import LogUnavailable
from replay.identity import Conversation, SessionRef
from replay.log_values import AppendStatus, Claim, ClaimStatus, Restored
from replay.memory_log import MemoryLog
from replay.records import State, Token, unpack_tokens

pytestmark = pytest.mark.anyio
LEASE_S = 60.0


class ForgetfulLog(MemoryLog):
    """A log that can forget any of it, and be away for some of what is asked."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000
        self.away: Callable[[str, SessionRef], bool] = lambda asked, ref: False
        self.restored = 0
        super().__init__(self._tick)

    def _tick(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def restart(self) -> None:
        self.run += "+"

    def lose(self, ref: SessionRef, end: int, **more: Any) -> None:
        """Its bytes above ``end``, and whatever else."""
        session = self._sessions[ref]
        session.chunks = [chunk for chunk in session.chunks if chunk.end <= end]
        session.tokens = session.tokens[: more.get("token_count", len(session.tokens))]
        session.end = None
        more.setdefault("state", State.RUNNING)
        session.record = replace(session.record, end=end, **more)

    def lose_all(self, ref: SessionRef) -> None:
        del self._sessions[ref]
        self._routes.pop((ref.tenant, ref.conversation_id))

    async def restore(self, claim: Claim, *args: Any, **more: Any) -> Restored:
        self._reach("restore", claim.ref)
        self.restored += 1
        return await super().restore(claim, *args, **more)

    async def read(self, ref: SessionRef, *args: Any, **more: Any) -> Any:
        self._reach("read", ref)
        return await super().read(ref, *args, **more)

    async def watch(self, conversation: Conversation, delay_s: float) -> None:
        self._reach("watch", SessionRef(conversation.tenant, conversation.id, "m", 0))
        await super().watch(conversation, delay_s)

    def _reach(self, asked: str, ref: SessionRef) -> None:
        if self.away(asked, ref):
            raise LogUnavailable(asked)


class Desk:
    """One worker's producer, moved step by step."""

    def __init__(self, log: ForgetfulLog, worker: str = "w1") -> None:
        self.log = log
        self.worker = worker
        self.producer = Producer(log, window_bytes=1 << 20, lease_s=LEASE_S)
        self.lost: list[AppendStatus] = []

    async def take(self, ref: SessionRef, **more: Any) -> Outlet:
        """Claims it, with all that the log has."""
        claim = await claimed(self.log, ref, nonce=f"of {self.worker}")
        record = await self.log.record(ref)
        assert record is not None
        outlet = Outlet(
            claim,
            record,
            body=[chunk async for chunk in stored_chunks(self.log, ref, 0)],
            tokens=unpack_tokens(await self.log.tokens(ref)),
            on_lost=self.lost.append,
            **more,
        )
        self.producer.add(outlet)
        return outlet

    async def renew(self, outlet: Outlet) -> ClaimStatus:
        """What the lease's keeper does."""
        (status,) = await self.log.renew([outlet.claim], LEASE_S)
        assert isinstance(status, ClaimStatus)
        self.producer.renewed(outlet.claim, status)
        return status

    async def flush(self) -> None:
        """Until nothing is left to do; a log that is away is left at once."""
        for _ in range(5):
            await self.producer.flush()

    def finish(self, outlet: Outlet, data: bytes = b"") -> None:
        outlet.close(data, (), State.COMPLETED, "stop")


@pytest.fixture
def log() -> ForgetfulLog:
    return ForgetfulLog()


@pytest.fixture
def desk(log: ForgetfulLog) -> Desk:
    return Desk(log)


async def produced(desk: Desk, name: str = "c", *data: bytes) -> Outlet:
    """A session that has said this, each step with a token."""
    outlet = await desk.take((await opened(desk.log, name)).ref)
    for one in data:
        outlet.put(one, [Token(outlet.token_count)])
        await desk.flush()
    return outlet


async def reconciled(desk: Desk, outlet: Outlet, *data: bytes) -> None:
    """That is all there is, and Redis is trusted again."""
    record = await desk.log.record(outlet.claim.ref)
    assert record is not None
    assert await body(desk.log, outlet.claim.ref) == b"".join(data)
    assert (record.run_id, record.doubts) == (desk.log.run, 0)
    ids = [token.id for token in unpack_tokens(await desk.log.tokens(outlet.claim.ref))]
    assert ids == list(range(len(ids)))
    assert desk.lost == []


@pytest.mark.parametrize("count", [0, 1])
async def test_a_tail_that_was_lost_is_appended_again(
    log: ForgetfulLog, desk: Desk, count: int
) -> None:
    outlet = await produced(desk, "c", b"one ", b"two ", b"three ")
    log.restart()
    log.lose(outlet.claim.ref, 4, token_count=count)
    assert await desk.renew(outlet) is ClaimStatus.MOVED
    outlet.put(b"four", [Token(3)])
    await desk.flush()
    await reconciled(desk, outlet, b"one ", b"two ", b"three ", b"four")
    assert await desk.renew(outlet) is ClaimStatus.RENEWED


@pytest.mark.parametrize("hears", ["renew", "append"])
async def test_a_claim_that_was_lost_is_made_known_again(
    log: ForgetfulLog, desk: Desk, hears: str
) -> None:
    outlet = await produced(desk, "c", b"one ", b"two ")
    log.restart()
    forgotten = {"state": State.QUEUED, "attempt": 0, "nonce": "", "lease_until_ms": 0}
    log.lose(outlet.claim.ref, 0, token_count=0, **forgotten)
    if hears == "renew":
        assert await desk.renew(outlet) is ClaimStatus.FORGOTTEN
    outlet.put(b"three", [Token(2)])
    await desk.flush()
    await reconciled(desk, outlet, b"one ", b"two ", b"three")


async def test_a_session_that_was_lost_is_made_known_again(log: ForgetfulLog, desk: Desk) -> None:
    outlet = await produced(desk, "c", b"one ", b"two ")
    log.restart()
    log.lose_all(outlet.claim.ref)
    assert await desk.renew(outlet) is ClaimStatus.GONE
    outlet.put(b"three", [Token(2)])
    await desk.flush()
    await reconciled(desk, outlet, b"one ", b"two ", b"three")
    assert [due.conversation for due in await log.due(9)] == []
    log.now_ms += 10_000
    assert [due.conversation for due in await log.due(9)] == [outlet.claim.ref.conversation]


async def test_two_restarts_in_a_row(log: ForgetfulLog, desk: Desk) -> None:
    outlet = await produced(desk, "c", b"one ", b"two ", b"three ")
    log.restart()
    log.lose(outlet.claim.ref, 8)
    assert await desk.renew(outlet) is ClaimStatus.MOVED
    await desk.producer.flush()  # looked at, and the missing bytes are appended...
    log.restart()
    log.lose_all(outlet.claim.ref)
    await desk.flush()  # ...before Redis is told that all is well
    await reconciled(desk, outlet, b"one ", b"two ", b"three ")
    log.restart()
    log.lose(outlet.claim.ref, 0, token_count=0)
    assert await desk.renew(outlet) is ClaimStatus.MOVED
    await desk.flush()
    await reconciled(desk, outlet, b"one ", b"two ", b"three ")


@pytest.mark.parametrize("asked", ["watch", "restore", "read"])
async def test_a_reconciliation_that_fails_half_way_is_begun_again(
    log: ForgetfulLog, desk: Desk, asked: str
) -> None:
    outlet = await produced(desk, "c", b"one ", b"two ")
    log.restart()
    log.lose(outlet.claim.ref, 4)
    await desk.renew(outlet)
    outlet.put(b"three", [Token(2)])
    log.away = lambda what, ref: what == asked
    with pytest.raises(LogUnavailable):
        await desk.producer.flush()
    assert (await log.record(outlet.claim.ref)).end == 4  # type: ignore[union-attr]
    log.away = lambda what, ref: False
    await desk.flush()
    await reconciled(desk, outlet, b"one ", b"two ", b"three")


async def test_one_that_cannot_be_reached_holds_up_no_other(log: ForgetfulLog, desk: Desk) -> None:
    far = await produced(desk, "far", b"one ")
    near = await produced(desk, "near", b"one ")
    log.restart()
    for outlet in (far, near):
        await desk.renew(outlet)
        outlet.put(b"two", [Token(1)])
    log.away = lambda what, ref: ref.conversation_id == "far"
    for _ in range(3):
        with pytest.raises(LogUnavailable):
            await desk.producer.flush()
    await reconciled(desk, near, b"one ", b"two")
    log.away = lambda what, ref: False
    await desk.flush()
    await reconciled(desk, far, b"one ", b"two")


async def test_an_end_that_is_lost_is_written_again(log: ForgetfulLog, desk: Desk) -> None:
    outlet = await produced(desk, "c", b"one ", b"two ")
    desk.finish(outlet, b"fin")
    await desk.flush()
    assert outlet.closed.is_set()
    assert desk.producer.outlets() == []
    assert desk.producer.claims() == [outlet.claim]  # it is kept until the end has stood
    log.restart()
    log.lose(outlet.claim.ref, 4)
    assert await desk.renew(outlet) is ClaimStatus.MOVED
    await desk.flush()
    record = await log.record(outlet.claim.ref)
    assert (record.state, record.reason) == (State.COMPLETED, "stop")  # type: ignore[union-attr]
    assert await body(log, outlet.claim.ref) == b"one two fin"
    assert outlet.closed.is_set()


async def test_an_end_alone_that_is_lost_is_written_again(log: ForgetfulLog, desk: Desk) -> None:
    outlet = await produced(desk, "c", b"one ")
    desk.finish(outlet)
    await desk.flush()
    log.lose(outlet.claim.ref, 4)  # under the same Redis: a renewal that finds no end says so
    assert await desk.renew(outlet) is ClaimStatus.RENEWED
    assert not outlet.is_verified
    await desk.flush()
    assert (await log.record(outlet.claim.ref)).state is State.COMPLETED  # type: ignore[union-attr]


async def test_an_ended_session_is_let_go_once_its_end_has_stood(
    log: ForgetfulLog, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = await produced(desk, "c", b"one ")
    desk.finish(outlet)
    await desk.flush()
    assert await desk.renew(outlet) is ClaimStatus.ENDED
    assert desk.producer.claims() == [outlet.claim]
    monkeypatch.setattr(outlets, "LINGER_S", 0.0)
    assert await desk.renew(outlet) is ClaimStatus.ENDED
    assert desk.producer.claims() == []
    assert desk.lost == []


async def test_an_ended_session_that_another_has_taken_is_let_go(
    log: ForgetfulLog, desk: Desk
) -> None:
    outlet = await produced(desk, "c", b"one ")
    desk.finish(outlet)
    await desk.flush()
    log.lose(outlet.claim.ref, 4, lease_until_ms=1)
    await Desk(log, "w2").take(outlet.claim.ref)
    assert await desk.renew(outlet) is ClaimStatus.FENCED
    assert desk.producer.claims() == []


@pytest.mark.parametrize("followed", [False, True], ids=["erased", "replaced"])
async def test_a_session_that_nobody_wants_any_more_is_not_brought_back(
    log: ForgetfulLog, desk: Desk, followed: bool
) -> None:
    outlet = await produced(desk, "c", b"one ")
    ref = outlet.claim.ref
    if followed:
        await opened(log, "c")
    else:
        await log.stop("t", "c", epoch=None, keep=False, reason="client")
    log.restart()
    del log._sessions[ref]
    assert await desk.renew(outlet) is ClaimStatus.GONE
    outlet.put(b"two", [Token(1)])
    await desk.flush()
    assert desk.lost == [AppendStatus.ENDED]
    assert desk.producer.claims() == []
    assert await log.record(ref) is None


async def test_what_was_evicted_after_its_end_is_not_asked_for_for_ever(
    log: ForgetfulLog, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = await produced(desk, "c", b"one ")
    desk.finish(outlet)
    await desk.flush()
    await log.stop("t", "c", epoch=None, keep=False, reason="client")
    del log._sessions[outlet.claim.ref]  # its last half minute is over
    for _ in range(3):  # its end has not stood for long: it may have been forgotten
        assert await desk.renew(outlet) is ClaimStatus.GONE
        await desk.flush()
        assert desk.producer.claims() == [outlet.claim]
    monkeypatch.setattr(outlets, "LINGER_S", 0.0)
    await desk.renew(outlet)
    await desk.flush()
    assert desk.producer.claims() == []
    assert desk.lost == []


async def test_other_bytes_in_the_place_of_ours_end_the_session(
    log: ForgetfulLog, desk: Desk
) -> None:
    outlet = await produced(desk, "c", b"one ", b"two ", b"three ")
    log.restart()
    log.lose(outlet.claim.ref, 4, attempt=0, nonce="zombie", token_count=1)
    zombie = Claim(outlet.claim.ref, "w0", 0, "zombie")
    await append(log, zombie, 4, b"zwei drei vier fuenf ", first_token=1, tokens=[Token(7)])
    await desk.renew(outlet)
    await desk.flush()
    record = await log.record(outlet.claim.ref)
    assert record is not None
    assert (record.state, record.reason) == (State.LOST, "log")
    assert (record.doubt, record.doubts > 0) == (4, True)  # who has "two " must hear of it
    assert desk.lost == [AppendStatus.ENDED]


async def test_a_takeover_that_was_forgotten_before_it_wrote_leaves_the_session_whole(
    log: ForgetfulLog, desk: Desk
) -> None:
    """The one it was taken from woke up, in a Redis that knew of nobody else, and went on."""
    first = await produced(desk, "c", b"one ")
    ref = first.claim.ref
    before = await log.record(ref)
    assert before is not None
    log.lose(ref, 4, lease_until_ms=1)
    other = Desk(log, "w2")
    second = await other.take(ref, is_settled=False)
    second.put(b"zwei ", [Token(9)])
    log.restart()
    forgotten = {"attempt": first.claim.attempt, "nonce": first.claim.nonce}
    log.lose(ref, 4, **forgotten)
    first.put(b"two ", [Token(1)])
    await desk.flush()
    assert await other.renew(second) is ClaimStatus.FORGOTTEN
    await other.flush()
    # Nobody was given "zwei", and readers have "two": whoever claims next goes on from there.
    assert other.lost == [AppendStatus.AT]
    record = await log.record(ref)
    assert record is not None
    assert record.state is State.RUNNING
    assert await body(log, ref) == b"one two "
    assert (await log.hand_over(second.claim)).dispatch > 0


async def test_ends_are_told_apart_from_stops(log: ForgetfulLog, desk: Desk) -> None:
    outlet = await produced(desk, "c", b"one ")
    log.restart()
    await log.stop("t", "c", epoch=None, keep=True, reason="client")
    assert await desk.renew(outlet) is ClaimStatus.ENDED
    outlet.put(b"two", [Token(1)])
    await desk.flush()
    assert desk.lost == [AppendStatus.ENDED]
    assert (await body(log, outlet.claim.ref)).startswith(b"one : end")


async def test_a_compacted_log_is_compared_as_well(log: ForgetfulLog, desk: Desk) -> None:
    outlet = await produced(desk, "c", b"one ", b"two ")
    await close(log, outlet.claim, 8, b"fin")
    await compacted(log, outlet.claim.ref.conversation)
    log._sessions[outlet.claim.ref].end = None
    log.lose(outlet.claim.ref, 11, token_count=2)
    outlet.estrange()
    desk.finish(outlet, b"fin")
    await desk.flush()
    assert desk.lost == []
    assert (await log.record(outlet.claim.ref)).state is State.COMPLETED  # type: ignore[union-attr]
