"""Workers die at any token, sleep through their lease, are killed by a request, are told to end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from deploy.bootstrap import ROOT
from tests.protocol.stored import Stored, stored
from tests.protocol.wire import DONE, Exchange, end_comment, events, text_of, until

from .breakable import Breakable, answer_to, bytes_of

SAMPLED = Path(__file__).parent / "sampled"
TOKENS = 60
BACKLOG_S = 1.5
"""So far a worker is ahead of the log when it falls asleep: it could write where that ends."""

PAUSE_S = 4.0
"""Long enough to kill whoever is silent, on a machine that is busy."""


def is_half(said: bytes) -> bool:
    """Whether the last token is a part of a code point."""
    return len(said.decode("utf-8", "ignore").encode()) < len(said)


def is_word(said: bytes) -> bool:
    """Whether the last token ends a word that a stop string may begin with."""
    return bool(re.search(rb" w\d{4}$", said))


def silent(pause_at: int, wanted: Callable[[bytes], bool] = lambda said: True) -> str:
    """An answer that falls silent after so many tokens, at a place like this."""
    pause = f"pause_at={pause_at} pause_s={PAUSE_S}" if pause_at else f"prefill_s={PAUSE_S}"
    for seed in count():
        words = f"[[tokens={TOKENS} rate=0 seed={seed} {pause}]]"
        if wanted(bytes_of(words, pause_at)):
            return words
    raise AssertionError


def checked(post: Exchange, words: str, session: Stored, tokens: int) -> None:
    """The stream of a session that another worker finished."""
    log = post.whole()
    assert log.endswith(DONE) and log.count(DONE) == 1
    assert text_of(events(log)) == answer_to(words)
    usage = [one["usage"] for one in events(log) if one.get("usage")]
    assert [one["completion_tokens"] for one in usage] == [tokens]
    record = session.fields
    assert (record["state"], record["token_count"]) == ("completed", str(tokens))
    assert session.takeovers


@pytest.mark.guarantee("T3")
@pytest.mark.clause("REC-5")
def test_a_worker_may_be_killed_at_any_token(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str
) -> None:
    cluster = cluster_of(nodes=1, REPLAY_SLOTS="8")
    [node], db = cluster.nodes, cluster.db
    places = [0, 1, 7, TOKENS // 2, TOKENS - 2, TOKENS - 1]
    asked: list[tuple[int, str, dict[str, Any]]] = [(place, silent(place), {}) for place in places]
    asked.append((20, silent(20, is_half), {}))
    held_back = silent(21, is_word)
    asked.append((21, held_back, {"stop": [bytes_of(held_back, 21)[-6:].decode() + "#"]}))
    names = [f"{name}-{number}" for number in range(len(asked))]
    posts = [
        exchanges.enter_context(
            node.posting(one, words, stream_options={"include_usage": True}, **more)
        )
        for one, (_, words, more) in zip(names, asked, strict=True)
    ]
    sessions = [node.reaches(one, "running") and stored(db, one) for one in names]
    places = [place for place, _, _ in asked]

    def reached() -> list[int]:
        return [int(session.fields["token_count"]) for session in sessions]

    until(lambda: reached() == places)
    for worker in cluster.worker_pids:
        cluster.cluster.kill(worker)
    assert reached() == places
    for post, (_, words, _), session in zip(posts, asked, sessions, strict=True):
        checked(post, words, session, TOKENS)


@pytest.mark.guarantee("T3")
@pytest.mark.clause("REC-5")
def test_a_worker_may_be_killed_between_its_last_token_and_the_end(
    cluster: Breakable, exchanges: ExitStack, name: str
) -> None:
    words = silent(TOKENS - 1)
    post = exchanges.enter_context(
        cluster.nodes[0].posting(name, words, stream_options={"include_usage": True})
    )
    post.first(1)
    session = stored(cluster.db, name)
    until(lambda: session.fields["token_count"] == str(TOKENS - 1))
    worker = session.fields["worker"]
    waits = "the flush waits"
    before = cluster.log_of(worker).count(waits)
    with cluster.redis.out():
        # Its last token and its end are made, and nobody but it has them.
        until(lambda: cluster.log_of(worker).count(waits) > before)
        cluster.kill(worker)
    log = cluster.followed(cluster.nodes[1], name)
    assert log.endswith(DONE) and text_of(events(log)) == answer_to(words)
    assert session.takeovers


def called(monitor: Any, marker: str) -> Iterator[tuple[str, bool]]:
    """The calls of scripts that Redis was sent, and whether each has written into a log."""
    call, wrote = "", False
    while marker not in (command := monitor.next_command())["command"]:
        if command["client_type"] == "lua":
            wrote |= command["command"].startswith("XADD ")
        else:
            yield call, wrote
            call, wrote = command["command"], False
    yield call, wrote


@pytest.mark.guarantee("T5")
@pytest.mark.clause("LOG-3")
@pytest.mark.parametrize("wakes", ["while the other works", "after the end"])
def test_a_worker_that_slept_through_its_lease_adds_nothing(
    cluster: Breakable, exchanges: ExitStack, name: str, wakes: str
) -> None:
    words, db = "[[tokens=240 rate=40 seed=8]]", cluster.db
    post = exchanges.enter_context(cluster.nodes[0].posting(name, words))
    post.first(1)
    session = stored(db, name)
    before = session.fields
    sleeper = before["worker"]
    with ExitStack() as asleep:
        with cluster.redis.held():
            time.sleep(BACKLOG_S)
            asleep.enter_context(cluster.held(sleeper))
        until(lambda: session.takeovers)
        taken_over = int(session.fields["token_count"])
        until(lambda: int(session.fields["token_count"]) > taken_over)
        if wakes == "after the end":
            until(lambda: session.fields["state"] == "completed")
        monitor = exchanges.enter_context(db.monitor())
    log = post.whole()
    until(lambda: cluster.slots_free(sleeper) == 4)
    db.echo(name)
    calls = called(monitor, f"ECHO {name}")
    tries = [wrote for call, wrote in calls if before["nonce"] in call]
    assert tries and not any(tries)
    assert text_of(events(log)) == answer_to(words)
    record = session.fields
    assert (record["token_count"], record["state"]) == ("240", "completed")
    assert record["worker"] != sleeper
    assert cluster.nodes[1].read(name).content == log


@pytest.mark.guarantee("T39")
@pytest.mark.clause("REC-6")
def test_poison_beside_seven_neighbours_harms_none(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str
) -> None:
    cluster = cluster_of(workers=1, REPLAY_SLOTS="8")
    node, other = cluster.nodes
    neighbours = {
        f"{name}-{number}": f"[[tokens=20 rate=0 seed={number} pause_at=9 pause_s=1.5]]"
        for number in range(7)
    }
    posts = [
        exchanges.enter_context(node.posting(one, words, sse_ping_interval=1))
        for one, words in neighbours.items()
    ]
    for one in neighbours:
        node.reaches(one, "running", "completed")
    words = "[[tokens=60 rate=0 die_at=9 pause_at=6 pause_s=0.5]]"
    with node.posting(name, words, sse_ping_interval=1) as poison:
        log = poison.whole()
    assert log.endswith(end_comment("failed", "poison"))
    takeovers = set()
    for post, (one, words) in zip(posts, neighbours.items(), strict=True):
        assert text_of(events(post.whole())) == answer_to(words)
        # Claims that only waited for their turn when the worker died again count for nothing.
        session = stored(cluster.db, one)
        takeovers.add(session.takeovers)
        assert int(session.fields["deaths"]) == session.takeovers
    assert 1 in takeovers <= {0, 1}, "some may have ended before the first death"
    assert other.found(name)["reason"] == "poison"
    shown = subprocess.run(
        [sys.executable, "-m", "replay.cli", "sessions", "show", name],
        env={**os.environ, "REPLAY_REDIS_URL": cluster.redis.url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "failed(poison)" in shown.stdout


@pytest.mark.guarantee("T25")
@pytest.mark.clause("REC-6")
def test_a_worker_that_drains_under_load_repeats_no_token(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str, tmp_path: Path
) -> None:
    counts = {worker: tmp_path / worker for worker in ("worker-1", "worker-2")}
    cluster = cluster_of(
        children={
            worker: {"PYTHONPATH": f"{SAMPLED}:{ROOT}", "SAMPLED_FILE": str(file)}
            for worker, file in counts.items()
        }
    )
    # Some end within the drain time, most are handed over, some have not begun.
    tokens = {f"{name}-{number}": 20 + 20 * number for number in range(10)}
    asked = {one: f"[[tokens={count} rate=40 seed=1]]" for one, count in tokens.items()}
    node = cluster.nodes[0]
    posts = [exchanges.enter_context(node.posting(one, words)) for one, words in asked.items()]
    for one in list(asked)[:8]:
        node.reaches(one, "running", "completed")
    cluster.kill("worker-1", signal.SIGTERM)
    for post, (one, words) in zip(posts, asked.items(), strict=True):
        assert text_of(events(post.whole())) == answer_to(words)
        record = stored(cluster.db, one).fields
        assert (record["state"], record["deaths"]) == ("completed", "0")
        assert int(record["token_count"]) == tokens[one]
    assert "2" in {stored(cluster.db, one).fields["attempt"] for one in asked}
    assert sum(file.stat().st_size for file in counts.values()) == sum(tokens.values())
