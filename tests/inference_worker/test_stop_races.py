"""A stop and the last token at the same moment, two thousand times."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from replay.log_values import Stopped
from replay.records import End, State
from replay.tail import Tail

from .cluster import LIMIT_S, Cluster, running

pytestmark = pytest.mark.anyio

RACES = 2000
LANES = 8
SPREAD_S = 0.005
"""A stop comes within this of the last token."""
WORDS = "[[tokens=2 rate=200 seed=5]]"
"""Two tokens, 5 ms apart: the first one tells when the last one comes."""
DONE = b"data: [DONE]\n\n"


class Race:
    """One answer and its stop; ``aim_s`` is when the stop is called after the first token."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.aim_s = SPREAD_S

    async def run(self, name: str) -> State:
        """Who won, as the caller of the stop, the reader, the record and the log say alike."""
        ref = await self.cluster.post(name, WORDS)
        log = self.cluster.log
        async with self.cluster.tailer.tail(ref, 0) as tail:
            body = (await tail.next()).data  # type: ignore[union-attr]
            after_s = max(0.0, self.aim_s + self.random.uniform(-SPREAD_S, SPREAD_S))
            reader, stopped = await asyncio.gather(_rest(tail), self._stop(name, after_s))
        rest, end = reader
        body += rest
        record = await log.resolve("t", name, None)
        assert (stopped.state, stopped.size) == (end.state, end.size) == (record.state, record.end)
        assert (stopped.reason, record.reason) == (end.reason, end.reason)
        assert (stopped.stopped, len(body)) == (end.state is State.STOPPED, end.size)
        assert await self.cluster.read(ref) == (body, end)
        assert body.count(DONE) == (end.state is State.COMPLETED)
        assert body.count(b": end ") == (end.state is State.STOPPED)
        self.aim_s += SPREAD_S / 10 if stopped.stopped else -SPREAD_S / 10
        return end.state

    async def _stop(self, name: str, after_s: float) -> Stopped:
        await asyncio.sleep(after_s)  # the race itself
        stopped = await self.cluster.log.stop("t", name, epoch=None, keep=True, reason="client")
        assert stopped is not None
        return stopped


async def _rest(tail: Tail) -> tuple[bytes, End]:
    body = b""
    while not isinstance(item := await tail.next(), End):
        body += item.data
    return body, item


@pytest.mark.guarantee("T16")
async def test_two_thousand_races_have_one_winner_each(redis_url: str) -> None:
    async with running(redis_url, slots=LANES) as cluster:

        async def lane(number: int) -> Counter[State]:
            race = Race(cluster, number)
            names = [f"c{number}-{each}" for each in range(RACES // LANES)]
            async with asyncio.timeout(5 * LIMIT_S):
                return Counter([await race.run(name) for name in names])

        winners = sum(await asyncio.gather(*map(lane, range(LANES))), Counter[State]())
    assert sum(winners.values()) == RACES
    assert set(winners) == {State.COMPLETED, State.STOPPED}
    assert min(winners.values()) > RACES / 5, winners
