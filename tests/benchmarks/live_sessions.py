"""Workers' side of a benchmark: many sessions, appended to at a steady rate. A companion.

    python -m tests.benchmarks.live_sessions <Redis's URL>

It writes as a worker does: through ``RedisLog``, in batches of as many sessions as a worker has
slots, spread evenly over time. Every event has the same size and tells when it was appended.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import uvloop

from replay import keys
from replay.compaction import Compactor
from replay.identity import Conversation, SessionRef
from replay.log_values import Append, AppendStatus, Claim
from replay.records import NewSession, Reason, State, Token
from replay.redis_log import RedisLog
from replay.redis_plane import connect
from tests.benchmarks import prose
from tests.benchmarks.companion import serve

MODEL = "scripted"
SLOTS = 8
OPENED_AT_ONCE = 32
LEASE_S = 3600.0
RETENTION_S = 600.0

EVENT_BYTES = 273
"""One content chunk of a real answer, on average (design section 4)."""

STAMP = b'"t":'
STAMP_DIGITS = 20


def event(now_ns: int) -> bytes:
    """A frame of ``EVENT_BYTES`` with the time (monotonic nanoseconds) in it."""
    head = b'data: {"t":%020d,"choices":[{"delta":{"content":"' % now_ns
    tail = b'"}}]}\n\n'
    return head + b"x" * (EVENT_BYTES - len(head) - len(tail)) + tail


class LiveSessions:
    """Sessions by the prefix of their conversations' names."""

    def __init__(self, url: str) -> None:
        self._redis: Any = connect(url)
        self._log = RedisLog(self._redis)
        self._claims: dict[str, list[Claim]] = {}
        self._ends: dict[Claim, int] = {}

    async def open(self, prefix: str, count: int) -> list[str]:
        """Opens and claims sessions; their paths."""
        claims: list[Claim] = []
        for first in range(0, count, OPENED_AT_ONCE):
            numbers = range(first, min(count, first + OPENED_AT_ONCE))
            claims += await asyncio.gather(*(self._opened(f"{prefix}-{n}") for n in numbers))
        self._claims[prefix] = claims
        return [claim.ref.path() for claim in claims]

    async def _opened(self, name: str) -> Claim:
        conversation = Conversation("default", name)
        new = NewSession(
            conversation=conversation,
            name=name,
            model=MODEL,
            dialect="openai.chat",
            request="{}",
            prompt=(1, 2, 3),
            prefill_chunk_tokens=128,
            completion_id="chatcmpl-benchmark",
            id_seed="s",
            retention_s=RETENTION_S,
            ping_interval_s=-1,
            queue_number=1,
        )
        opened = await self._log.open(new, arrived_ms=math.inf, nonce=uuid4().hex)
        claimed = await self._log.claim(
            opened.ref, worker="bench", nonce=uuid4().hex, lease_s=LEASE_S
        )
        assert claimed.claim is not None
        self._ends[claimed.claim] = 0
        return claimed.claim

    async def emit(self, prefix: str, rounds: int, round_s: float) -> dict[str, float]:
        """One event to each session in each round; tells how late the last batch was."""
        claims = self._claims[prefix]
        batches = [claims[first : first + SLOTS] for first in range(0, len(claims), SLOTS)]
        began_s = time.monotonic()
        due_s = began_s
        for _ in range(rounds):
            for batch in batches:
                due_s += round_s / len(batches)
                await self._append(batch)
                if (early_s := due_s - time.monotonic()) > 0:
                    await asyncio.sleep(early_s)
        return {"events": rounds * len(claims), "late_s": max(0.0, time.monotonic() - due_s)}

    async def _append(self, claims: Sequence[Claim]) -> None:
        data = event(time.monotonic_ns())
        appends = [Append(claim, self._ends[claim], data) for claim in claims]
        for claim, result in zip(claims, await self._log.append(appends), strict=True):
            if isinstance(result, Exception):
                raise result
            assert result.status is AppendStatus.APPENDED, result
            self._ends[claim] = result.end

    async def fill(self, name: str, tokens: int) -> dict[str, Any]:
        """One finished session of so many tokens of prose, an entry each; its path and size."""
        claim = await self._opened(name)
        record = await self._log.record(claim.ref)
        assert record is not None
        at = 0
        for number, data in enumerate(prose.frames(record, tokens)):
            token = Token(number)
            await self._log.append([Append(claim, at, data, number, [token])])
            at += len(data)
        done = Append(claim, at, b"", tokens, state=State.COMPLETED, reason=Reason.STOP)
        [result] = await self._log.append([done])
        assert not isinstance(result, Exception) and result.status is AppendStatus.APPENDED
        return {"path": claim.ref.path(), "size": at}

    async def compact(self, path: str) -> float:
        """Seconds that the compaction of a finished session took."""
        began_s = time.perf_counter()
        await Compactor(self._log, settled_s=0.0).compact(SessionRef.from_path(path).conversation)
        return time.perf_counter() - began_s

    async def memory(self, path: str) -> int:
        """Bytes that all keys of a session take in Redis."""
        ref = SessionRef.from_path(path)
        names = (keys.record(ref), keys.stream(ref), keys.tokens(ref), keys.route(ref.conversation))
        return sum([await self._redis.memory_usage(name, samples=0) or 0 for name in names])

    async def serve(self) -> None:
        """Answers until nobody asks any more."""
        try:
            answers = {"fill": self.fill, "compact": self.compact, "memory": self.memory}
            await serve({"open": self.open, "emit": self.emit, **answers})
        finally:
            await self._redis.aclose()


if __name__ == "__main__":
    uvloop.run(LiveSessions(sys.argv[1]).serve())
