"""A worker that says nothing for a while: what fills the silence is a part of the log."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.protocol.wire import events, frames, text_of

from .breakable import Breakable, answer_to

WORDS = "[[tokens=20 rate=0 seed=1 pause_at=10 pause_s=4.8]]"
PINGS = b":\n\n" * 3


@pytest.mark.guarantee("T21")
@pytest.mark.clause("PING-1")
def test_every_byte_of_a_silence_is_good_to_go_on_from(
    cluster: Breakable, exchanges: ExitStack, name: str
) -> None:
    post = exchanges.enter_context(cluster.nodes[0].posting(name, WORDS, sse_ping_interval=1))
    start = len(post.containing(PINGS)) - len(PINGS)
    places = range(start, start + len(PINGS) + 1)
    live = {
        (place, node): exchanges.enter_context(node.reading(name, from_=place))
        for place in places
        for node in cluster.nodes
    }
    log = post.whole()
    assert text_of(events(log)) == answer_to(WORDS)
    assert {frame for frame in frames(log) if frame.startswith(b":")} == {b":"}
    for (place, node), reader in live.items():
        assert reader.whole() == log[place:]
        assert node.read(name, from_=place).content == log[place:]
