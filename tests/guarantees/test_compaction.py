"""A settled log is replaced under its readers: none notices, and no crash or stop is undone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from deploy.bootstrap import ROOT
from replay.limits import PAGE_BYTES_MAX
from tests.protocol.stored import Stored, stored
from tests.protocol.wire import STREAM, Exchange, Node, target

from .breakable import Breakable

WORDS = "[[tokens={tokens} rate=0 seed={seed}]]"
TOKENS = 1500
"""Some 400 KB, which take some 30 ms to compact."""

SPAN_S = 0.04
EVICTED_MS = 30_000
SLOW_BYTES = 4096


@contextmanager
def compacting(cluster: Breakable, names: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A block with a process that compacts these, and is no more at its end."""
    command = [sys.executable, "-m", "tests.guarantees.compacting", cluster.redis.url, *names]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def compact(cluster: Breakable, names: Sequence[str]) -> None:
    """Compacts them all."""
    with compacting(cluster, names) as child:
        child.communicate(timeout=30)
        assert child.returncode == 0


def answered(
    cluster: Breakable, name: str, *, count: int, tokens: int = TOKENS
) -> dict[str, bytes]:
    """Finished sessions and their bytes."""
    names = [f"{name}-{number}" for number in range(count)]
    asked = {one: WORDS.format(seed=seed, tokens=tokens) for seed, one in enumerate(names)}
    node = cluster.nodes[0]
    return {one: node.post(one, words, stream=True).content for one, words in asked.items()}


def is_compacted(session: Stored) -> bool:
    """Whether its log is blocks; half of each is never to be seen."""
    kinds = {b"z" in fields for _, fields in session.entries if b"end" not in fields}
    assert len(kinds) == 1 and session.end is not None
    return kinds == {True}


def check(nodes: Sequence[Node], name: str, log: bytes, offset: int) -> None:
    """Every node gives the same rest, however it is coded."""
    for node in nodes:
        for coding in ("gzip", "identity"):
            asked = target(STREAM, conv_id=name, from_=offset)
            response = node.http.get(asked, headers={"Accept-Encoding": coding})
            assert (response.status_code, response.content == log[offset:]) == (200, True)


def test_who_compacts_may_be_killed_at_any_time(cluster: Breakable, name: str) -> None:
    logs, chance = answered(cluster, name, count=8), random.Random(7)
    before = {one: cluster.db.pexpiretime(stored(cluster.db, one).keys.stream) for one in logs}
    keys = set(cluster.db.keys(f"*{name}*"))
    for number, victim in enumerate(logs):
        with compacting(cluster, list(logs)[number:]) as child:
            assert child.stdout is not None and child.stdout.readline().strip() == victim
            time.sleep(chance.uniform(0, SPAN_S))  # not a wait: the fault's own time
            child.kill()
        for one, log in logs.items():
            is_compacted(stored(cluster.db, one))
            check(cluster.nodes, one, log, chance.randrange(len(log)))
    compact(cluster, list(logs))
    for one, log in logs.items():
        session = stored(cluster.db, one)
        assert is_compacted(session)
        assert cluster.db.pexpiretime(session.keys.stream) == before[one] > 0
        for offset in (0, len(log) // 2, len(log)):
            check(cluster.nodes, one, log, offset)
    tokens = {stored(cluster.db, one).keys.tokens.encode() for one in logs}
    assert set(cluster.db.keys(f"*{name}*")) == keys - tokens


@pytest.mark.guarantee("T23")
def test_what_is_erased_while_it_is_compacted_stays_erased(cluster: Breakable, name: str) -> None:
    logs, chance = answered(cluster, name, count=4), random.Random(7)
    node, other = cluster.nodes
    sessions = [stored(cluster.db, one) for one in logs]
    with compacting(cluster, list(logs)) as child:
        assert child.stdout is not None
        for one in logs:
            assert child.stdout.readline().strip() == one
            time.sleep(chance.uniform(0, SPAN_S))  # not a wait: the fault's own time
            node.erase(one)
        child.wait(timeout=30)
    for one, session in zip(logs, sessions, strict=True):
        assert other.read(one).status_code == 404
        assert cluster.db.pttl(session.keys.stream) <= EVICTED_MS
        assert cluster.db.pttl(session.keys.record) <= EVICTED_MS


def test_readers_in_the_middle_of_it_are_undisturbed(cluster: Breakable, name: str) -> None:
    [(one, log)] = answered(cluster, name, count=1, tokens=6 * TOKENS).items()
    assert len(log) > 3 * PAGE_BYTES_MAX
    offsets = [0, 1, 1000, len(log) // 3, len(log) // 2]
    with ExitStack() as stack:
        readers = [
            (offset, stack.enter_context(_slow(node, one, offset)))
            for offset in offsets
            for node in cluster.nodes
        ]
        for offset, reader in readers:
            assert reader.first(SLOW_BYTES)[:SLOW_BYTES] == log[offset : offset + SLOW_BYTES]
        compact(cluster, [one])
        assert is_compacted(stored(cluster.db, one))
        for offset, reader in readers:
            assert reader.whole() == log[offset:]


def _slow(node: Node, name: str, offset: int) -> Exchange:
    """A reader that has not taken much: what the log is made of changes under it."""
    asked = target(STREAM, conv_id=name, from_=offset)
    return Exchange(node.url, "GET", asked, receive_buffer_bytes=SLOW_BYTES)
