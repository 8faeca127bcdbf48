"""The sweep: what nobody ends is ended, and healthy work is left alone whatever went away."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_harness import append, body, claimed, new_session
from redis.asyncio import Redis

from replay import frames, keys, sweeper
from replay.compaction import SETTLED_S, TAKEN_S, WAITING_MAX, Compactor
from replay.errors import LogUnavailable
from replay.identity import Conversation, SessionRef
from replay.limits import DEATHS_MAX, PROGRESS_TOKENS
from replay.log_values import Due, Look
from replay.memory_log import MemoryLog
from replay.records import State, Token
from replay.redis_log import RedisLog
from replay.redis_plane import connect
from replay.sweeper import WITHOUT_WORKER_S, Suspicion, Sweeper, is_dead

pytestmark = pytest.mark.anyio
LEASE_S = 4.0
LEASE_MS = 4000
HALF_MS = 2000
BODY = b"data: {}\n\n" * 1000
NOW = 1_000_000


def look(*, lease_until_ms: int, now_ms: int = NOW) -> Look:
    return Look(
        ref=SessionRef("t", "c", "m", 1),
        state=State.RUNNING,
        lease_until_ms=lease_until_ms,
        now_ms=now_ms,
        created_ms=0,
        queue_number=1,
        dispatch=1,
        owner="",
        dialect="openai.chat",
    )


SEEN = Suspicion(lease_until_ms=NOW - HALF_MS - 1, seen_ms=NOW - HALF_MS, connection=7)


@pytest.mark.parametrize(
    ("lease_until_ms", "first", "connection", "expected"),
    [
        (NOW + 1, None, 7, (False, None)),
        (0, None, 7, (False, None)),
        (NOW + 1, SEEN, 7, (False, None)),
        (NOW, None, 7, (False, Suspicion(NOW, NOW, 7))),
        (NOW - 60_000, None, 7, (False, Suspicion(NOW - 60_000, NOW, 7))),
        (SEEN.lease_until_ms, SEEN, 7, (True, SEEN)),
        (SEEN.lease_until_ms, SEEN, 8, (False, Suspicion(SEEN.lease_until_ms, NOW, 8))),
        (SEEN.lease_until_ms + 1, SEEN, 7, (False, Suspicion(SEEN.lease_until_ms + 1, NOW, 7))),
    ],
    ids=[
        "a lease that stands",
        "never claimed",
        "renewed since",
        "expired this moment",
        "long expired, first look",
        "the second look",
        "another connection",
        "another lease, expired too",
    ],
)
def test_a_lease_is_dead_only_when_it_was_seen_so_twice(
    lease_until_ms: int,
    first: Suspicion | None,
    connection: int,
    expected: tuple[bool, Suspicion | None],
) -> None:
    seen = look(lease_until_ms=lease_until_ms)
    assert is_dead(seen, first, connection=connection, lease_ms=LEASE_MS) == expected


@pytest.mark.parametrize(("passed_ms", "dead"), [(0, False), (HALF_MS - 1, False), (HALF_MS, True)])
def test_the_looks_must_be_half_a_lease_apart(passed_ms: int, dead: bool) -> None:
    first = Suspicion(NOW - 5000, NOW - passed_ms, 7)
    found = is_dead(look(lease_until_ms=NOW - 5000), first, connection=7, lease_ms=LEASE_MS)
    assert found == (dead, first)  # the first look's time is kept, else a quick sweeper never ends


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20_000)), max_size=30))
def test_a_worker_that_lives_is_never_reaped_whatever_the_outages(
    spans: list[tuple[bool, int]],
) -> None:
    """It renews every third of a lease, and after an outage as late as that."""
    now, connection, first = NOW, 1, None
    lease_until, renewal_due = NOW + LEASE_MS, NOW + LEASE_MS // 3
    for is_outage, span_ms in spans:
        now += span_ms
        if is_outage:
            connection += 1
            renewal_due = now + LEASE_MS // 3
        while renewal_due <= now:
            lease_until = renewal_due + LEASE_MS
            renewal_due += LEASE_MS // 3
        seen = look(lease_until_ms=lease_until, now_ms=now)
        dead, first = is_dead(seen, first, connection=connection, lease_ms=LEASE_MS)
        assert not dead


class Clocked(MemoryLog):
    """A log whose clock and connection a test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000
        self.number = 1
        self.away = False
        super().__init__(lambda: self.now_ms)

    def connection(self) -> int:
        return self.number

    async def due(self, most: int) -> list[Due]:
        if self.away:
            raise LogUnavailable("due")
        return await super().due(most)

    def pass_s(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


class World:
    """A sweeper and what it asks."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self.nodes = {"node-1"}
        self.models = {"m"}
        self.jobs: set[tuple[SessionRef, int]] = set()
        self.queued: list[tuple[SessionRef, int]] = []
        self.queue_away = False
        self.compactor = Compactor(log)
        self.sweeper = self.another()

    def another(self) -> Sweeper:
        return Sweeper(
            self.log,
            self,
            lease_s=LEASE_S,
            requeue=self.requeue,
            has_job=self.has_job,
            compactor=self.compactor,
        )

    async def has_node(self, node_id: str) -> bool:
        return node_id in self.nodes

    async def serves(self, model: str) -> bool:
        return model in self.models

    async def requeue(self, seen: Look, dispatch: int) -> None:
        if self.queue_away:
            raise LogUnavailable("enqueue")
        await asyncio.sleep(0)
        self.jobs.add((seen.ref, dispatch))
        self.queued.append((seen.ref, dispatch))

    async def has_job(self, seen: Look) -> bool:
        if self.queue_away:
            raise LogUnavailable("queue")
        await asyncio.sleep(0)
        return (seen.ref, seen.dispatch) in self.jobs

    async def opened(self, name: str = "c", *, owner: str = "", job: bool = True) -> SessionRef:
        await self.log.watch(Conversation("t", name), 0)
        new = new_session(name, owner=owner)
        ref: SessionRef = (await self.log.open(new, arrived_ms=math.inf, nonce=name)).ref
        if job:
            self.jobs.add((ref, 1))
        return ref

    async def state(self, ref: SessionRef) -> tuple[State, str]:
        record = await self.log.record(ref)
        return record.state, record.reason

    async def renew(self, claim: Any) -> None:
        await self.log.renew([claim], LEASE_S)

    async def sweep(self) -> None:
        await self.sweeper.sweep()


@pytest.fixture
def world() -> World:
    return World(Clocked())


async def compacted_all(world: World) -> None:
    """Runs the world's compactor until nothing is watched any more."""
    task = asyncio.create_task(world.compactor.run())
    async with asyncio.timeout(5):
        while world.log._watched:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def watched(world: World) -> list[Due]:
    world.log.pass_s(sweeper.LOOK_AGAIN_S + 0.001)
    found: list[Due] = await world.log.due(10)
    return found


async def test_the_session_of_a_dead_worker_is_queued_again_after_two_looks(
    world: World,
) -> None:
    ref = await world.opened()
    claim = await claimed(world.log, ref, lease_s=LEASE_S)
    await append(world.log, claim, 0, b"said")
    for passed_s, state in [(3.9, State.RUNNING), (2.1, State.RUNNING), (1.9, State.RUNNING)]:
        world.log.pass_s(passed_s)
        await world.sweep()
        assert (await world.state(ref))[0] is state
    world.log.pass_s(0.2)
    await world.sweep()
    assert await world.state(ref) == (State.QUEUED, "")
    assert world.queued == [(ref, 2)]
    assert await body(world.log, ref) == b"said"
    again = await claimed(world.log, ref, nonce="another worker's")
    assert again.attempt == 2


async def test_a_session_that_killed_two_workers_ends_as_poison(world: World) -> None:
    ref = await world.opened()
    for attempt in (1, 2):
        claim = await claimed(world.log, ref, lease_s=LEASE_S, nonce=f"n{attempt}")
        await world.log.enter(claim)
        assert claim.attempt == attempt
        world.log.pass_s(LEASE_S)
        await world.sweep()
        world.log.pass_s(HALF_MS / 1000)
        await world.sweep()
    assert await world.state(ref) == (State.FAILED, "poison")
    assert (await body(world.log, ref)).endswith(b': end {"state":"failed","reason":"poison"}\n\n')


async def test_progress_clears_the_suspicion_but_not_for_ever(world: World) -> None:
    ref = await world.opened()
    for attempt in range(1, DEATHS_MAX + 1):
        claim = await claimed(world.log, ref, lease_s=LEASE_S, nonce=f"n{attempt}")
        await world.log.enter(claim)
        record = await world.log.record(ref)
        tokens = [Token(1)] * PROGRESS_TOKENS
        await append(world.log, claim, 0, b"", first_token=record.token_count, tokens=tokens)
        assert await world.state(ref) == (State.RUNNING, "")
        world.log.pass_s(LEASE_S)
        await world.sweep()
        world.log.pass_s(HALF_MS / 1000)
        await world.sweep()
    assert await world.state(ref) == (State.FAILED, "poison")


async def test_an_expired_lease_is_looked_at_again_at_the_next_sweep(world: World) -> None:
    """A dead worker costs a lease and a half and one sweep, not two waits for the next look."""
    ref = await world.opened()
    await claimed(world.log, ref, lease_s=LEASE_S)
    world.log.pass_s(LEASE_S)
    sweeps = 0
    while (await world.state(ref))[0] is State.RUNNING:
        await world.sweep()
        sweeps += 1
        world.log.pass_s(sweeper.SWEEP_INTERVAL_S)
        assert sweeps <= 1 + LEASE_S / 2 / sweeper.SWEEP_INTERVAL_S
    assert await world.state(ref) == (State.QUEUED, "")


async def test_a_look_before_redis_refused_does_not_count(world: World) -> None:
    """It refused the renewals too (its disk was full), though no connection broke."""
    ref = await world.opened()
    await claimed(world.log, ref, lease_s=LEASE_S)
    world.log.pass_s(LEASE_S)
    await world.sweep()
    world.log.away = True
    with suppress(LogUnavailable):
        await world.sweep()
    world.log.away = False
    world.log.pass_s(LEASE_S)
    await world.sweep()
    assert (await world.state(ref))[0] is State.RUNNING
    world.log.pass_s(HALF_MS / 1000)
    await world.sweep()
    assert (await world.state(ref))[0] is State.QUEUED


async def test_a_renewal_between_the_looks_clears_the_suspicion(world: World) -> None:
    ref = await world.opened()
    claim = await claimed(world.log, ref, lease_s=LEASE_S)
    for _ in range(6):
        world.log.pass_s(LEASE_S + 0.1)
        await world.sweep()
        await world.renew(claim)
        world.log.pass_s(HALF_MS / 1000)
        await world.sweep()
    assert (await world.state(ref))[0] is State.RUNNING


@pytest.mark.parametrize("outage_s", [2 * LEASE_S, 8 * LEASE_S])
async def test_an_outage_longer_than_a_lease_reaps_nobody(world: World, outage_s: float) -> None:
    claims = []
    for number in range(8):
        ref = await world.opened(f"c{number}")
        claims.append(await claimed(world.log, ref, lease_s=LEASE_S, nonce=f"n{number}"))
    for _ in range(3):
        await world.sweep()
        world.log.away = True
        world.log.pass_s(outage_s)
        with pytest.raises(LogUnavailable):
            await world.sweep()
        world.log.away = False
        world.log.number += 1  # the connection broke with it
        await world.sweep()  # before any worker could renew
        for claim in claims:
            await world.renew(claim)
        world.log.pass_s(HALF_MS / 1000)
        await world.sweep()
    assert {await world.state(claim.ref) for claim in claims} == {(State.RUNNING, "")}


async def test_two_outages_in_a_row_reap_nobody(world: World) -> None:
    """A look before each outage and one after it are looks over different connections."""
    ref = await world.opened()
    claim = await claimed(world.log, ref, lease_s=LEASE_S)
    for _ in range(4):
        world.log.pass_s(2 * LEASE_S)
        world.log.number += 1
        await world.sweep()
    await world.renew(claim)
    assert (await world.state(ref))[0] is State.RUNNING


async def test_a_node_record_that_lapsed_in_an_outage_ends_no_session(world: World) -> None:
    """Node records live 5 s: after a longer outage every node is absent for one heartbeat."""
    ref = await world.opened(owner="node-1")
    claim = await claimed(world.log, ref, lease_s=LEASE_S)
    await world.sweep()
    world.log.pass_s(2 * LEASE_S)
    world.log.number += 1
    world.nodes.clear()
    await world.sweep()  # before the node could write its heartbeat
    world.nodes.add("node-1")
    await world.renew(claim)
    world.log.pass_s(HALF_MS / 1000)
    await world.sweep()
    assert (await world.state(ref))[0] is State.RUNNING


async def test_a_plain_session_ends_with_its_node_despite_a_live_lease(world: World) -> None:
    running = await world.opened("running", owner="node-2")
    queued = await world.opened("queued", owner="node-2")
    kept = await world.opened("kept", owner="node-1")
    opted_in = await world.opened("opted-in")
    claim = await claimed(world.log, running, lease_s=1000)
    for _ in range(4):
        await world.sweep()
        await world.renew(claim)
        world.log.pass_s(HALF_MS / 1000)
    for ref in (running, queued):
        assert await world.state(ref) == (State.STOPPED, "disconnected")
        assert (
            await body(world.log, ref) == b': end {"state":"stopped","reason":"disconnected"}\n\n'
        )
    for ref in (kept, opted_in):
        assert await world.state(ref) == (State.QUEUED, "")


async def test_an_ended_session_leaves_the_watch_once_it_is_compacted(world: World) -> None:
    ref = await world.opened()
    claim = await claimed(world.log, ref)
    await append(world.log, claim, 0, BODY)
    await world.log.stop("t", "c", epoch=None, keep=True, reason="client")
    world.log.pass_s(SETTLED_S - 0.1)
    await world.sweep()
    assert (await world.log.due(10), (await world.log.record(ref)).packed_bytes) == ([], 0)
    world.log.pass_s(0.2)
    await world.sweep()
    await compacted_all(world)
    assert 0 < (await world.log.record(ref)).packed_bytes < len(BODY) / 10
    assert await body(world.log, ref) == BODY + frames.end_comment(State.STOPPED, "client")


async def test_what_was_replaced_is_compacted_with_its_successor(world: World) -> None:
    replaced = await world.opened()
    await append(world.log, await claimed(world.log, replaced), 0, BODY)
    new = await world.log.open(new_session("c"), arrived_ms=math.inf, nonce="again")
    await world.log.stop("t", "c", epoch=None, keep=True, reason="client")
    world.log.pass_s(SETTLED_S)
    await world.sweep()
    await compacted_all(world)
    assert (await world.log.record(replaced)).packed_bytes > 0
    assert (await world.log.record(new.ref)).packed_bytes == 0  # its comment is too short


async def test_what_was_opened_during_a_compaction_stays_in_the_watch(world: World) -> None:
    """Its node has died between opening and announcing it anew."""
    ref = await world.opened()
    await append(world.log, await claimed(world.log, ref), 0, BODY)
    await world.log.stop("t", "c", epoch=None, keep=True, reason="client")
    world.log.pass_s(SETTLED_S)
    await world.sweep()
    await world.log.open(new_session("c"), arrived_ms=math.inf, nonce="again")
    task = asyncio.create_task(world.compactor.run())
    async with asyncio.timeout(5):
        while not await world.log.due(10):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert (await world.log.record(ref)).packed_bytes > 0


async def test_a_plain_session_leaves_the_watch_as_it_is(world: World) -> None:
    ref = await world.opened(owner="node-1")
    await append(world.log, await claimed(world.log, ref), 0, BODY)
    await world.log.stop("t", "c", epoch=None, keep=True, reason="client")
    await world.sweep()
    assert len(world.log._watched) == 0


async def test_one_of_many_sweepers_has_a_session_compacted(world: World) -> None:
    ref = await world.opened()
    await append(world.log, await claimed(world.log, ref), 0, BODY)
    await world.log.stop("t", "c", epoch=None, keep=True, reason="client")
    world.log.pass_s(SETTLED_S)
    (due,) = await world.log.due(10)
    seen = await world.log.look(due.conversation)
    for _ in range(3):
        await world.sweeper._ended(due, seen)
    assert world.compactor._waiting.qsize() == 1
    world.log.pass_s(TAKEN_S - 0.1)
    assert await world.log.due(10) == []
    world.log.pass_s(0.2)  # whoever took it has died: the next one finds it
    assert await world.log.due(10) != []


async def test_a_compactor_takes_no_more_than_it_can_hold(world: World) -> None:
    for number in range(WAITING_MAX + 2):
        await world.opened(f"c{number}")
        await world.log.stop("t", f"c{number}", epoch=None, keep=True, reason="client")
    world.log.pass_s(SETTLED_S)
    await world.sweep()
    assert world.compactor.is_busy
    world.log.pass_s(sweeper.LOOK_AGAIN_S)
    assert len(await world.log.due(10)) == 2


async def test_a_conversation_that_was_never_opened_leaves_the_watch(world: World) -> None:
    await world.log.watch(Conversation("t", "never"), 0)
    await world.sweep()
    assert await watched(world) == []


async def test_a_healthy_session_is_looked_at_again(world: World) -> None:
    ref = await world.opened()
    await claimed(world.log, ref, lease_s=LEASE_S)
    await world.sweep()
    assert await world.log.due(10) == []
    assert [due.conversation for due in await watched(world)] == [ref.conversation]


async def test_a_new_post_after_the_look_keeps_its_watch(world: World) -> None:
    """The sweeper looks, a new POST announces itself, the sweeper takes its look out."""
    await world.opened()
    await world.log.stop("t", "c", epoch=None, keep=True, reason="client")
    (due,) = await world.log.due(10)
    seen = await world.log.look(due.conversation)
    assert seen is not None
    world.log.pass_s(0.1)
    await world.log.watch(due.conversation, 0)
    await world.log.again(due, None)
    assert len(await watched(world)) == 1


async def test_a_queued_session_without_a_job_is_queued_under_a_new_dispatch(
    world: World,
) -> None:
    ref = await world.opened(job=False)
    with_job = await world.opened("d")
    await world.sweep()
    assert world.queued == [(ref, 2)]
    for _ in range(3):
        world.log.pass_s(sweeper.LOOK_AGAIN_S)
        await world.sweep()
    assert world.queued == [(ref, 2)]
    assert await world.state(with_job) == (State.QUEUED, "")


async def test_a_session_that_was_claimed_meanwhile_is_not_queued_again(world: World) -> None:
    ref = await world.opened(job=False)
    has_job = world.has_job

    async def claimed_meanwhile(seen: Look) -> bool:
        found = await has_job(seen)
        await claimed(world.log, ref)
        return found

    world.has_job = claimed_meanwhile  # type: ignore[method-assign]
    world.sweeper = world.another()
    await world.sweep()
    assert world.queued == []


async def test_without_a_worker_a_queued_session_fails_after_the_limit(world: World) -> None:
    world.models.clear()
    ref = await world.opened()
    for passed_s in (0.0, WITHOUT_WORKER_S - 1):
        world.log.pass_s(passed_s)
        await world.sweep()
        assert await world.state(ref) == (State.QUEUED, "")
    world.log.pass_s(3)
    await world.sweep()
    assert await world.state(ref) == (State.FAILED, "limit")
    assert b"no worker took the session" in await body(world.log, ref)


async def test_behind_busy_workers_a_session_may_wait_for_as_long_as_it_takes(
    world: World,
) -> None:
    ref = await world.opened()
    world.log.pass_s(10 * WITHOUT_WORKER_S)
    await world.sweep()
    assert await world.state(ref) == (State.QUEUED, "")


async def test_a_worker_that_is_away_for_a_moment_ends_no_session_that_waited_long(
    world: World,
) -> None:
    """The limit is 300 s without a worker, not 300 s in the queue."""
    ref = await world.opened()
    for _ in range(4):
        world.log.pass_s(WITHOUT_WORKER_S / 3)
        await world.sweep()
    world.models.clear()
    world.log.pass_s(sweeper.LOOK_AGAIN_S)
    await world.sweep()
    world.models.add("m")
    assert await world.state(ref) == (State.QUEUED, "")


async def test_a_queue_that_is_away_keeps_no_orphan_from_being_freed(world: World) -> None:
    """The queue may be another Redis; orphans are freed without it, and queued later."""
    await world.opened("queued", job=False)
    ref = await world.opened("orphan")
    await claimed(world.log, ref, lease_s=LEASE_S)
    world.queue_away = True
    world.log.pass_s(LEASE_S)
    for _ in range(4):
        with suppress(LogUnavailable):
            await world.sweep()
        world.log.pass_s(1)
    assert await world.state(ref) == (State.QUEUED, "")
    world.queue_away = False
    world.log.pass_s(sweeper.LOOK_AGAIN_S)
    await world.sweep()
    assert ref in [queued for queued, _ in world.queued]


async def test_a_session_whose_new_job_could_not_be_queued_is_queued_later(world: World) -> None:
    ref = await world.opened(job=False)
    requeue = world.requeue

    async def refuse(seen: Look, dispatch: int) -> None:
        world.requeue = requeue  # type: ignore[method-assign]
        raise LogUnavailable("enqueue")

    world.requeue = refuse  # type: ignore[method-assign]
    world.sweeper = world.another()
    with suppress(LogUnavailable):
        await world.sweep()
    world.sweeper = world.another()
    world.log.pass_s(sweeper.LOOK_AGAIN_S)
    await world.sweep()
    assert [one for one, _ in world.queued] == [ref]
    record = await world.log.record(ref)
    assert world.queued[-1][1] == record.dispatch


async def test_suspicions_of_sessions_that_are_gone_are_forgotten(world: World) -> None:
    ref = await world.opened()
    await claimed(world.log, ref, lease_s=LEASE_S)
    world.log.pass_s(LEASE_S)
    await world.sweep()
    assert list(world.sweeper._suspicions) == [ref]
    await world.log.stop("t", "c", epoch=None, keep=True, reason="client")
    for _ in range(2):  # one to see its end, one not to see it any more
        await world.sweep()
    assert world.sweeper._suspicions == {}


async def test_the_sweep_goes_on_after_the_log_was_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "SWEEP_INTERVAL_S", 0.001)
    world.log.away = True
    task = asyncio.ensure_future(world.sweeper.run())
    await asyncio.sleep(0.01)  # some sweeps that fail
    assert not task.done()
    ref = await world.opened(job=False)
    world.log.away = False
    async with asyncio.timeout(5):
        while True:
            if world.queued:
                break
            await asyncio.sleep(0.001)  # a sweep goes by the clock
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.queued == [(ref, 2)]


async def test_racing_sweepers_queue_no_dispatch_twice(redis: Redis) -> None:
    world = World(RedisLog(redis))
    refs = [await world.opened(f"c{number}", job=False) for number in range(5)]
    sweepers = [world.another() for _ in range(4)]
    await asyncio.gather(*(one.sweep() for one in sweepers))
    # Who looks between another's count and its enqueueing counts on; no dispatch comes twice.
    assert len(set(world.queued)) == len(world.queued)
    assert {ref for ref, _ in world.queued} == set(refs)
    assert await world.log.due(10) == []


async def test_a_session_that_two_have_looked_at_is_queued_once(redis: Redis) -> None:
    world = World(RedisLog(redis))
    ref = await world.opened(job=False)
    both = asyncio.Barrier(2)

    async def missing(seen: Look) -> bool:
        await both.wait()
        return False

    world.has_job = missing  # type: ignore[method-assign]
    await asyncio.gather(world.another().sweep(), world.another().sweep())
    assert world.queued == [(ref, 2)]


async def test_racing_sweepers_free_an_orphan_once(redis_url: str, redis: Redis) -> None:
    world = World(RedisLog(redis))
    ref = await world.opened()
    await claimed(world.log, ref, lease_s=60)
    await redis.hset(keys.record(ref), "lease_until_ms", "1")  # type: ignore[misc]
    clients = [connect(redis_url) for _ in range(4)]
    sweepers = [
        Sweeper(
            RedisLog(one),
            world,
            lease_s=0.0,
            requeue=world.requeue,
            has_job=world.has_job,
            compactor=world.compactor,
        )
        for one in clients
    ]
    for _ in range(2):
        await asyncio.gather(*(one.sweep() for one in sweepers))
    for one in clients:
        await one.aclose()
    # Who looks between the freeing and the enqueueing finds no job, and counts on.
    assert (ref, 2) in world.queued
    assert len(set(world.queued)) == len(world.queued)
    assert (await world.log.record(ref)).deaths == 1
    assert await world.state(ref) == (State.QUEUED, "")


async def test_a_broken_connection_has_another_number(redis_url: str, redis: Redis) -> None:
    swept = connect(redis_url)
    try:
        log = RedisLog(swept)
        await log.look(Conversation("t", "c"))
        number = log.connection()
        for _ in range(10):
            await log.look(Conversation("t", "c"))
        assert log.connection() == number
        await redis.client_kill_filter(_type="normal", skipme=True)
        with suppress(LogUnavailable):
            await log.look(Conversation("t", "c"))
        await log.look(Conversation("t", "c"))
        assert log.connection() != number
    finally:
        await swept.aclose()
