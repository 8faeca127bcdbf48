"""One name, one session after another: no reader is given a byte of the wrong one."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.protocol.wire import end_comment, error_of, events, text_of

from .breakable import Breakable, answer_to

LONG = "[[tokens=100000 rate=50 seed=1]]"
SHORT = "[[tokens=10 rate=0 seed=2]]"


@pytest.mark.guarantee("T6")
@pytest.mark.clause("GET-5")
def test_two_tabs_and_a_new_question_are_never_mixed(
    cluster: Breakable, exchanges: ExitStack, name: str
) -> None:
    node, other = cluster.nodes
    first = exchanges.enter_context(node.posting(name, LONG))
    epoch = int(first.headers["x-stream-epoch"])
    tab = exchanges.enter_context(other.reading(name, epoch=epoch))
    high = len(first.first(4000))
    second = other.post(name, SHORT, stream=True)
    current = int(second.headers["x-stream-epoch"])
    assert current > epoch and len(second.content) < high
    assert text_of(events(second.content)) == answer_to(SHORT)

    log = first.whole()
    assert tab.whole() == log and log.endswith(end_comment("stopped", "replaced"))
    for one in cluster.nodes:
        # The tab that comes back with what it knows goes on with its own session.
        assert one.read(name, epoch=epoch, from_=high).content == log[high:]
        # One that names no epoch is told: by the size, or by the epoch that it is given.
        beyond = one.read(name, from_=high)
        assert (beyond.status_code, error_of(beyond)["size"]) == (416, len(second.content))
        below = one.read(name, from_=10)
        assert int(below.headers["x-stream-epoch"]) == current
        assert below.content == second.content[10:]
        never = one.read(name, epoch=current + 1)
        assert (never.status_code, error_of(never)["current_epoch"]) == (409, current)
