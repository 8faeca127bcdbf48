"""A reader as browsers' EventSource is one: cut anywhere, it comes back with its last id."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .wire import Exchange, Node, events, frames, target, text_of

WORDS = "[[tokens=40 rate=0 seed=5]]"
LIVE = "[[tokens=120 rate=30 seed=5]]"


class EventSource:
    """What the standard has of it, as far as ids go. ``data`` is what its page was told."""

    def __init__(self, name: str, **query: object) -> None:
        self._target = target("/v1/stream", conv_id=name, ids="true", **query)
        self.last = ""
        self.data: list[str] = []

    def connect(self, node: Node) -> Exchange:
        """Asks a node, as at the beginning or after a cut."""
        headers = {b"Last-Event-ID": self.last.encode()} if self.last else {}
        return node.exchange("GET", self._target, headers)

    def take(self, received: bytes) -> None:
        """What a connection has brought before it ended; half an event is dropped."""
        *whole, _ = received.split(b"\n\n")
        for frame in whole:
            lines = [line.partition(": ") for line in frame.decode().split("\n") if line]
            self.last = next((value for field, _, value in lines if field == "id"), self.last)
            told = [value for field, _, value in lines if field == "data"]
            if told:
                self.data.append("\n".join(told))

    def parts(self) -> list[dict[str, Any]]:
        """The JSON of its events."""
        return [json.loads(one) for one in self.data if one.startswith("{")]


@pytest.mark.clause("EVENT-1")
def test_a_reader_that_is_cut_after_any_number_of_bytes_misses_and_repeats_nothing(
    nodes: tuple[Node, Node], name: str
) -> None:
    log = nodes[0].post(name, WORDS, stream=True).content
    said = [frame[6:].decode() for frame in frames(log) if frame.startswith(b"data: ")]
    for step in (1000, 1333, 4096):  # more than any frame has
        source, connections = EventSource(name), 0
        while True:
            with source.connect(nodes[connections % 2]) as exchange:
                connections += 1
                if exchange.status == 204:
                    break
                while len(exchange.data) < step and exchange.chunk():
                    pass
                source.take(exchange.data[:step])
            assert connections < 1000
        assert source.data == said
        assert connections > len(log) // step
    assert source.last == f"{nodes[1].found(name)['epoch']}-{len(log)}"


@pytest.mark.clause("EVENT-1")
def test_from_every_id_another_node_goes_on(nodes: tuple[Node, Node], name: str) -> None:
    log = nodes[0].post(name, WORDS, stream=True).content
    source = EventSource(name)
    with source.connect(nodes[1]) as exchange:
        told = exchange.whole()
    source.take(told)
    ends = [at + 2 for at in range(len(log)) if log[at : at + 2] == b"\n\n"]
    assert told.count(b"\nid: ") == len(ends)
    for number, end in enumerate(ends[:-1]):
        later = EventSource(name)
        later.last = f"{source.last.partition('-')[0]}-{end}"
        with later.connect(nodes[number % 2]) as exchange:
            assert told.endswith(exchange.whole())
        later.take(exchange.data)
        assert events(log[end:]) == later.parts()


@pytest.mark.clause("EVENT-1")
@pytest.mark.clause("EVENT-2")
def test_a_live_answer_is_followed_over_cuts_to_its_end(
    nodes: tuple[Node, Node], name: str
) -> None:
    source, connections = EventSource(name), 0
    with nodes[0].posting(name, LIVE) as post:
        post.first(1)
        while True:
            with source.connect(nodes[connections % 2]) as exchange:
                connections += 1
                if exchange.status == 204:
                    break
                while len(exchange.data) < 3000 and exchange.chunk():
                    pass
                source.take(exchange.data)
        log = post.whole()
    assert connections > 3
    assert source.data[-1] == "[DONE]"
    assert text_of(source.parts()) == text_of(events(log))


@pytest.mark.clause("EVENT-2")
def test_an_id_is_bound_to_its_session(nodes: tuple[Node, Node], name: str) -> None:
    node, other = nodes
    first = node.post(name, WORDS, stream=True).content
    source = EventSource(name)
    with source.connect(other) as exchange:
        source.take(exchange.first(1000)[:1000])
    node.post(name, "[[tokens=12 rate=0 seed=6]]")
    with source.connect(other) as exchange:
        source.take(exchange.whole())
    assert text_of(source.parts()) == text_of(events(first))
    bound = EventSource(name, epoch=node.found(name)["epoch"])
    bound.last = source.last
    with bound.connect(node) as exchange:
        assert exchange.status == 400
    plain = node.http.get(
        target("/v1/stream", conv_id=name), headers={"Last-Event-ID": source.last}
    )
    assert plain.status_code == 200 and b"\nid: " not in plain.content


@pytest.mark.clause("MERGED-1")
def test_the_answer_so_far_and_what_follows_it_are_the_whole(
    nodes: tuple[Node, Node], name: str
) -> None:
    node, other = nodes
    with node.posting(name, LIVE) as post:
        post.first(3000)
        merged = other.http.get(target("/v1/stream", conv_id=name, view="merged"))
        told = merged.json()
        assert (told["state"], told["is_done"]) == ("running", False)
        rest = other.read(name, from_=told["offset"]).content
        log = post.whole()
    said = told["message"]["choices"][0]["message"]["content"]
    assert said and log.endswith(rest) and len(log) == told["offset"] + len(rest)
    assert said + text_of(events(rest)) == text_of(events(log))
    assert len(merged.content) < told["offset"] / 2
    done = node.http.get(target("/v1/stream", conv_id=name, view="merged")).json()
    assert (done["state"], done["is_done"], done["offset"]) == ("completed", True, len(log))
    assert node.http.get(target("/v1/stream", conv_id=name, view="x")).status_code == 400
    assert other.http.get(target("/v1/stream", conv_id="never", view="merged")).status_code == 404
