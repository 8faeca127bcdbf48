"""Redis is away while workers generate: what they have is kept, and nobody is taken for dead."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.protocol.stored import stored
from tests.protocol.wire import end_comment, events, text_of
from tests.redis_server import RedisServer

from .breakable import LEASE_S, Breakable, answer_to

SESSIONS = 4
FLOOD = "[[tokens=100000 rate=0 burst_every=1 pause_at=5 pause_s=1 seed=1]]"
"""A few words, and a second later more than any backlog takes."""


def away(redis: RedisServer) -> AbstractContextManager[None]:
    """Its port refuses."""
    return redis.out()


def silent(redis: RedisServer) -> AbstractContextManager[None]:
    """It takes everything and answers nothing."""
    return redis.held()


@pytest.mark.guarantee("T12")
@pytest.mark.guarantee("T38")
@pytest.mark.clause("REC-2")
@pytest.mark.parametrize(("outage", "leases"), [(silent, 2), (away, 8)])
def test_an_outage_reaps_nobody_and_costs_no_byte(
    cluster: Breakable,
    name: str,
    outage: Callable[[RedisServer], AbstractContextManager[None]],
    leases: int,
) -> None:
    node, other = cluster.nodes
    asked = {
        f"{name}-{number}": f"[[tokens={60 * leases} rate=30 seed={number}]]"
        for number in range(SESSIONS)
    }
    for one, words in asked.items():
        cluster.begin(node, one, words)
    sampled = {one: stored(cluster.db, one).fields["token_count"] for one in asked}
    with outage(cluster.redis):
        time.sleep(leases * LEASE_S)
    for one, words in asked.items():
        log = cluster.followed(other, one)
        assert text_of(events(log)) == answer_to(words)
        record = stored(cluster.db, one).fields
        assert (record["attempt"], record["deaths"]) == ("1", "0")
        assert int(record["token_count"]) == 60 * leases > int(sampled[one])


@pytest.mark.guarantee("T12")
@pytest.mark.clause("END-2")
def test_what_exceeds_the_backlog_fails_once_redis_is_back(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str
) -> None:
    cluster = cluster_of(workers=1, REPLAY_CONTEXT_TOKENS="200000")
    node, other = cluster.nodes
    neighbour = "[[tokens=80 rate=20 seed=9]]"
    cluster.begin(node, f"{name}-neighbour", neighbour)
    cluster.begin(node, name, FLOOD)
    said = len(stored(cluster.db, name).log)
    with cluster.redis.held():
        cluster.until_logged("worker-1", "lost (gone)")
    log = cluster.followed(other, name)
    assert log.endswith(end_comment("failed", "storage")) and len(log) > said
    assert stored(cluster.db, name).fields["attempt"] == "1"
    log = cluster.followed(other, f"{name}-neighbour")
    assert text_of(events(log)) == answer_to(neighbour)
