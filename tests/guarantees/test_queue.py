"""Work that runs, however much, is in nobody's way who waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.protocol.wire import events, text_of, until

from .breakable import Breakable, answer_to

IN_FLIGHT = 300
SLOTS = {"worker-1": {"REPLAY_SLOTS": "256"}, "worker-2": {"REPLAY_SLOTS": "64"}}
LONG = "[[tokens=1000 rate=0.1]]"
SHORT = "[[tokens=10 rate=0 seed=1]]"


@pytest.mark.guarantee("T27")
@pytest.mark.clause("REC-4")
def test_300_long_answers_hide_no_short_one(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    cluster = cluster_of(children=SLOTS)
    node, other = cluster.nodes
    names = [f"{name}-{number}" for number in range(IN_FLIGHT)]
    for one in names:
        with node.posting(one, LONG):
            until(lambda one=one: other.lookup(one))

    def running() -> int:
        return sum(one["state"] == "running" for one in node.lookup(*names))

    until(lambda: running() == IN_FLIGHT)
    assert text_of(events(other.post(name, SHORT, stream=True).content)) == answer_to(SHORT)
    assert running() == IN_FLIGHT
    until(lambda: cluster.db.zcard(f"rc:queue:{cluster.model}") == 0)
