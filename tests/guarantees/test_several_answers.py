"""A worker dies with several answers of one session: some over, some running, one waiting."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.protocol.stored import stored
from tests.protocol.wire import DONE, events, naming, until

from .breakable import Breakable

PAUSE_S = 3.0
"""Long enough to kill the worker, on a machine that is busy."""

OVER = "A. [[tokens=10 rate=0 seed=1]]"
LONG = f"B. [[tokens=40 rate=0 seed=2 pause_at=20 pause_s={PAUSE_S}]]"
LATE = f"C. [[tokens=30 rate=0 seed=3 pause_at=7 pause_s={PAUSE_S}]]"
UNSEEN = "D. [[tokens=5 rate=0 seed=4]]"
ROUTE = "/v1/completions"


@pytest.mark.guarantee("T3")
@pytest.mark.clause("CHOICE-3")
def test_another_worker_goes_on_with_all_answers(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    cluster = cluster_of(nodes=1, REPLAY_SLOTS="2")
    [node] = cluster.nodes
    asked = {"prompt": [OVER, LONG, LATE, UNSEEN], "stream": True}
    with node.exchange("POST", ROUTE, naming(name), json.dumps(asked).encode()) as post:
        node.reaches(name, "running")
        session = stored(cluster.db, name)
        until(lambda: session.fields["token_count"] == str(10 + 20 + 7))
        cluster.kill(session.fields["worker"])
        log = post.whole()
    assert session.takeovers
    assert log.count(DONE) == 1 and log.endswith(DONE)
    told = [choice for event in events(log) for choice in event["choices"]]
    ended = [choice["index"] for choice in told if choice["finish_reason"]]
    assert sorted(ended) == [0, 1, 2, 3] and ended[0] == 0
    for index, prompt in enumerate((OVER, LONG, LATE, UNSEEN)):
        alone = node.http.post(ROUTE, json={"prompt": prompt}).json()
        shown = "".join(choice["text"] for choice in told if choice["index"] == index)
        assert shown == alone["choices"][0]["text"]
    assert events(log)[-1]["usage"]["completion_tokens"] == 10 + 40 + 30 + 5
