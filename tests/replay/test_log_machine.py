"""Any interleaving of what a log can do, against a plain list of bytes.

Two conversations of one slot, each a list of sessions; the model of a session is its body. Reads
from anywhere are byte-equal, tails see every byte once, offsets never lie.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from log_harness import Harness, body, compacted, new_session
from redis import Redis as SyncRedis
from redis_harness import RedisHarness
from test_memory_log import MemoryHarness

from replay import frames
from replay.errors import OffsetBeyondEnd, SessionExpired, SessionNotFound
from replay.identity import Conversation, SessionRef
from replay.log_values import Append, AppendResult, AppendStatus, Claim
from replay.records import Chunk, End, State, Token, unpack_tokens
from replay.redis_plane import connect
from replay.tail import Tail
from replay.tailer import Tailer

LIMIT_S = 30.0
REPLACED = b': end {"state":"stopped","reason":"replaced"}\n\n'
STOPPED = b': end {"state":"stopped","reason":"client"}\n\n'
POISON = frames.closing("openai.chat", State.FAILED, "poison")
TEXT = "data: \u00e9\u6f22\U0001f9ea\n\n".encode()

names = st.sampled_from(["a", "a::b"])
cuts = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.integers(0, len(TEXT)).map(lambda n: TEXT[:n]),
    st.just(b"x" * 4096),
    st.just(b""),
)
T = TypeVar("T")


@dataclass
class ModelSession:
    """What a session must be."""

    ref: SessionRef
    claim: Claim | None = None
    body: bytearray = field(default_factory=bytearray)
    tokens: list[Token] = field(default_factory=list)
    end: End | None = None
    evicted: bool = False
    expired: bool = False

    def finish(self, state: State, reason: str) -> None:
        self.end = End(state, reason, len(self.body))


@dataclass
class ModelTail:
    """A reader that was attached at ``start``, and what it has read."""

    session: ModelSession
    tail: Tail
    start: int
    read: bytearray = field(default_factory=bytearray)


class LogMachine(RuleBasedStateMachine):
    """One log, in the harness of its adapter."""

    def __init__(self, opened: Callable[[AsyncExitStack], Awaitable[Harness]]) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.sessions: dict[str, list[ModelSession]] = {"a": [], "a::b": []}
        self.tails: list[ModelTail] = []
        self.count = 0
        self.harness = self.run(opened(self.stack))
        self.log = self.harness.log
        self.tailer = self.run(
            self.stack.enter_async_context(Tailer(self.log, self.harness.channels))
        )

    def run(self, awaitable: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(LIMIT_S):
                return await awaitable

        return self.loop.run_until_complete(bounded())

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()

    def current(self, name: str) -> ModelSession | None:
        known = self.sessions[name]
        return known[-1] if known and not known[-1].evicted else None

    @rule(name=names)
    def open(self, name: str) -> None:
        self.count += 1
        before = self.current(name)
        opened = self.run(
            self.log.open(new_session(name), arrived_ms=math.inf, nonce=f"open-{self.count}")
        )
        if before is not None and before.end is None:
            before.body += REPLACED
            before.finish(State.STOPPED, "replaced")
            assert opened.replaced == before.ref
        assert all(opened.ref.epoch > one.ref.epoch for one in self.sessions[name])
        self.sessions[name].append(ModelSession(opened.ref))

    @rule(name=names)
    def claim(self, name: str) -> None:
        session = self.current(name)
        if session is None or session.end is not None:
            return
        if session.claim is not None:
            self.run(self.harness.expire_lease(session.ref))
        self.count += 1
        result = self.run(
            self.log.claim(session.ref, worker="w", nonce=f"claim-{self.count}", lease_s=60)
        )
        assert result.claim.attempt == (session.claim.attempt if session.claim else 0) + 1
        session.claim = result.claim

    @rule(name=names, data=cuts)
    def kill(self, name: str, data: bytes) -> None:
        """Its worker dies; another one claims what it did not kill, and the dead one comes back."""
        session = self.current(name)
        if session is None or session.claim is None or session.end is not None:
            return
        zombie, refused = session.claim, AppendStatus.FENCED
        self.run(self.harness.expire_lease(session.ref))
        look = self.run(self.log.look(session.ref.conversation))
        if self.run(self.log.requeue(look)).is_poison:
            poison = {"state": State.FAILED, "reason": "poison", "closing": POISON}
            assert self.run(self.log.reap(look, **poison))
            session.body += POISON
            session.finish(State.FAILED, "poison")
            refused = AppendStatus.ENDED
        self.claim(name)
        (result,) = self.run(self.log.append([Append(zombie, len(session.body), data)]))
        assert result.status is refused

    @rule(name=names, data=cuts, ids=st.lists(st.integers(0, 2**32 - 1), max_size=3))
    def append(self, name: str, data: bytes, ids: list[int]) -> None:
        session = self.current(name)
        if session is None or session.claim is None:
            return
        tokens = [Token(one) for one in ids]
        at = Append(session.claim, len(session.body), data, len(session.tokens), tokens)
        (result,) = self.run(self.log.append([at]))
        if session.end is not None:
            assert result == AppendResult(AppendStatus.ENDED)
            return
        session.body += data
        session.tokens += tokens
        assert (result.status, result.end) == (AppendStatus.APPENDED, len(session.body))

    @rule(name=names, start=st.integers(0, 50), data=st.binary(min_size=1, max_size=60))
    def append_again(self, name: str, start: int, data: bytes) -> None:
        session = self.current(name)
        if session is None or session.claim is None or session.end is not None:
            return
        if start == len(session.body):
            return
        (result,) = self.run(self.log.append([Append(session.claim, start, data)]))
        assert (result.status, result.end) == (AppendStatus.AT, len(session.body))

    @rule(name=names, data=cuts)
    def close(self, name: str, data: bytes) -> None:
        session = self.current(name)
        if session is None or session.claim is None or session.end is not None:
            return
        last = Append(session.claim, len(session.body), data, state=State.COMPLETED, reason="stop")
        (result,) = self.run(self.log.append([last]))
        session.body += data
        assert (result.status, result.end) == (AppendStatus.APPENDED, len(session.body))
        session.finish(State.COMPLETED, "stop")

    @rule(name=names, keep=st.booleans())
    def stop(self, name: str, keep: bool) -> None:
        session = self.current(name)
        stopped = self.run(self.log.stop("t", name, epoch=None, keep=keep, reason="client"))
        if session is None:
            assert stopped is None
            return
        if session.end is None:
            session.body += STOPPED
            session.finish(State.STOPPED, "client")
        assert (stopped.ref, stopped.size) == (session.ref, len(session.body))
        if not keep:
            for one in self.sessions[name]:
                one.evicted = True

    @rule(name=names)
    def expire(self, name: str) -> None:
        session = self.current(name)
        if session is None or session.end is None:
            return
        self.run(self.harness.pass_retention(session.ref))
        session.expired = True

    @rule(name=names)
    def compact(self, name: str) -> None:
        done = self.run(compacted(self.log, Conversation("t", name)))
        for session in self.sessions[name]:
            if session.ref in done:
                session.tokens = []

    @rule(name=names, which=st.integers(0, 10), offset=st.integers(0, 5000))
    def read(self, name: str, which: int, offset: int) -> None:
        known = self.sessions[name]
        if not known:
            return
        session = known[which % len(known)]
        offset = min(offset, len(session.body))
        assert self.run(body(self.log, session.ref, offset)) == bytes(session.body[offset:])
        assert unpack_tokens(self.run(self.log.tokens(session.ref))) == session.tokens

    @rule(name=names, which=st.integers(0, 10))
    def resolve(self, name: str, which: int) -> None:
        known = self.sessions[name]
        if not known:
            return
        session = known[which % len(known)]
        found = self.log.resolve("t", name, session.ref.epoch)
        if session.evicted:
            with pytest.raises(SessionNotFound):
                self.run(found)
        elif session.expired:
            with pytest.raises(SessionExpired):
                self.run(found)
        else:
            assert self.run(found).end == len(session.body)

    @rule(name=names)
    def lookup(self, name: str) -> None:
        found = self.run(self.log.lookup("t", [name]))
        current = [self.current(one) for one in self.sessions if one.startswith(name)]
        known = {one.ref for one in current if one is not None and not one.expired}
        assert {record.ref for record in found} == known

    @precondition(lambda self: len(self.tails) < 6)
    @rule(name=names, which=st.integers(0, 10), offset=st.integers(0, 5000))
    def tail(self, name: str, which: int, offset: int) -> None:
        known = self.sessions[name]
        if not known:
            return
        session = known[which % len(known)]
        entered = self.stack.enter_async_context(self.tailer.tail(session.ref, offset))
        if offset > len(session.body):
            with pytest.raises(OffsetBeyondEnd):
                self.run(entered)
        else:
            self.tails.append(ModelTail(session, self.run(entered), offset))

    @rule(which=st.integers(0, 10))
    def follow(self, which: int) -> None:
        if not self.tails:
            return
        one = self.tails[which % len(self.tails)]
        self.run(self.caught_up(one))

    async def caught_up(self, one: ModelTail) -> None:
        """Reads until the tail stands where its session does."""
        while one.start + len(one.read) < len(one.session.body):
            item = await one.tail.next()
            assert isinstance(item, Chunk)
            one.read += item.data
        assert one.read == one.session.body[one.start :]
        if one.session.end is not None:
            assert await one.tail.next() == one.session.end
            self.tails.remove(one)

    @invariant()
    def ended_sessions_tell_the_same_end(self) -> None:
        for known in self.sessions.values():
            if known and known[-1].end is not None:
                page = self.run(self.log.read(known[-1].ref, len(known[-1].body)))
                assert page.end == known[-1].end


async def memory_harness(stack: AsyncExitStack) -> Any:
    return MemoryHarness()


async def redis_harness(url: str, stack: AsyncExitStack) -> Any:
    with SyncRedis.from_url(url) as client:
        client.flushall()
    redis = connect(url)
    stack.push_async_callback(redis.aclose)
    return RedisHarness(redis, url)


class MemoryMachine(LogMachine):
    """Over the log in memory."""

    def __init__(self) -> None:
        super().__init__(memory_harness)


class RedisMachine(LogMachine):
    """Over the log in Redis."""

    redis_url: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__(partial(redis_harness, self.redis_url))


LIMITS = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.guarantee("T19")
def test_the_log_in_memory_equals_a_list_of_bytes() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(MemoryMachine, settings=LIMITS)  # type: ignore[no-untyped-call]


@pytest.mark.guarantee("T19")
def test_the_log_in_redis_equals_a_list_of_bytes(redis_url: str) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    RedisMachine.redis_url = redis_url
    run_state_machine_as_test(RedisMachine, settings=LIMITS)  # type: ignore[no-untyped-call]
