"""A Redis that comes back without its last seconds: nothing is lost, or readers are told."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from replay import keys
from replay.identity import SessionRef
from tests.protocol.wire import Cut, Exchange, Node, error_of, events, text_of, until
from tests.redis_server import TAIL_BYTES, RedisServer

from .breakable import Breakable, answer_to

FEW = "[[tokens=250 rate=50 seed=7]]"
MANY = "[[tokens=1700 rate=50 seed=7]]"
PATIENT = {"REPLAY_LEASE_S": "4"}
"""A lease is the time that a producer has to speak up, on a machine that may be busy."""


def follow(node: Node, name: str, line: Exchange) -> bytes:
    """A whole body, over as many lines as it takes; the client counts bytes, nothing more."""
    data = b""
    while True:
        with line:
            try:
                return data + line.whole()
            except Cut:
                data += line.data
        line = until(partial(resumed, node, name, len(data)))
        assert line.status == 200, line.error()


def resumed(node: Node, name: str, offset: int) -> Exchange | None:
    """The next line; None where the node says: later."""
    line = node.reading(name, from_=offset)
    if line.status != 503:
        return line
    line.close()
    return None


def ref_of(cluster: Breakable, name: str) -> SessionRef:
    """The session that the name means."""
    return SessionRef("default", name, cluster.model, cluster.nodes[0].found(name)["epoch"])


@pytest.mark.timeout(240)
@pytest.mark.guarantee("T7")
@pytest.mark.clause("REC-7")
@pytest.mark.parametrize(
    ("fsync", "away_s", "lost_bytes", "words"),
    [
        ("everysec", 0.1, TAIL_BYTES, FEW),
        ("always", 0.1, TAIL_BYTES, FEW),
        ("everysec", 3, TAIL_BYTES, FEW),
        ("always", 3, 0, FEW),
        ("everysec", 30, TAIL_BYTES, MANY),
    ],
)
def test_what_redis_lost_is_appended_again_at_the_same_offsets(
    cluster_of: Callable[..., Breakable],
    tmp_path: Path,
    exchanges: ExitStack,
    name: str,
    fsync: str,
    away_s: float,
    lost_bytes: int,
    words: str,
) -> None:
    redis = RedisServer(tmp_path / "own", appendfsync=fsync)
    cluster = cluster_of(redis=redis, **PATIENT)
    node, other = cluster.nodes
    post = exchanges.enter_context(node.posting(name, words))
    post.first(4000)
    reader = exchanges.enter_context(other.reading(name))
    reader.first(4000)
    ref = ref_of(cluster, name)
    cluster.redis.restart(after_s=away_s, lost_bytes=lost_bytes)

    log = follow(other, name, reader)
    assert follow(node, name, post) == log
    assert other.read(name).content == node.read(name).content == log
    assert log.endswith(b"data: [DONE]\n\n")
    assert text_of(events(log)) == answer_to(words)
    assert cluster.db.hget(keys.record(ref), "attempt") == b"1"
    usage = cluster.db.strlen(keys.tokens(ref)) // 8
    assert int(cluster.db.hget(keys.record(ref), "token_count")) == usage


@pytest.mark.guarantee("T40")
@pytest.mark.clause("REC-7")
@pytest.mark.parametrize("forgotten", ["everything", "claim"])
def test_a_producer_makes_known_again_what_was_forgotten(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str, forgotten: str
) -> None:
    cluster = cluster_of(workers=1, REPLAY_SLOTS="1", **PATIENT)
    node, other = cluster.nodes
    busy = f"{name}-busy"
    if forgotten == "claim":
        exchanges.enter_context(node.posting(busy, "[[tokens=100000 rate=20]]"))
        node.reaches(busy, "running")
    before = aof_bytes(cluster.redis)
    post = exchanges.enter_context(node.posting(name, FEW, sse_ping_interval=1))
    ref = ref_of(cluster, name)
    if forgotten == "claim":
        before = aof_bytes(cluster.redis)
        node.stop(busy)
    post.first(2000)
    cluster.redis.stop()
    cluster.redis.lose(aof_bytes(cluster.redis) - before)
    cluster.redis.start()

    log = follow(other, name, post)
    assert text_of(events(log)) == answer_to(FEW)
    assert node.read(name, epoch=ref.epoch).content == log
    assert other.found(name)["state"] == "completed"


def aof_bytes(redis: RedisServer) -> int:
    """The size of its append-only file."""
    files = redis.folder.glob("appendonlydir/*.incr.aof")
    return max(file.stat().st_size for file in files)


@pytest.mark.guarantee("T40")
@pytest.mark.clause("REC-8")
@pytest.mark.clause("GET-10")
def test_a_claim_that_two_have_made_has_one_log(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str
) -> None:
    """Both are the first attempt: the job, too, is back in its queue."""
    cluster = cluster_of(workers=2, REPLAY_SLOTS="1")
    node, other = cluster.nodes
    busy = [f"{name}-busy-{number}" for number in range(2)]
    for one in busy:
        exchanges.enter_context(node.posting(one, "[[tokens=100000 rate=20]]"))
        node.reaches(one, "running")
    post = exchanges.enter_context(node.posting(name, FEW, sse_ping_interval=1))
    ref = ref_of(cluster, name)
    before = aof_bytes(cluster.redis)
    for one in busy:
        node.stop(one, keep="true")
    had = post.first(6000)
    record = keys.record(ref)
    first = cluster.db.hget(record, "worker").decode()
    with cluster.held(first):
        cluster.redis.stop()
        cluster.redis.lose(aof_bytes(cluster.redis) - before)
        cluster.redis.start()
        until(lambda: cluster.db.hget(record, "worker") not in (None, b"", first.encode()))
        assert cluster.db.hget(record, "attempt") == b"1"
    cut = post.cut()
    assert cut.startswith(had)
    told = node.read(name, from_=len(cut))
    assert told.status_code == 416
    size = error_of(told)["size"]
    log = follow(other, name, other.reading(name))
    assert log[:size] == cut[:size]
    assert text_of(events(log)) == answer_to(FEW)
    assert node.read(name).content == log
    assert cluster.db.hget(record, "attempt") == b"1"


@pytest.mark.guarantee("T40")
@pytest.mark.clause("REC-8")
@pytest.mark.clause("GET-10")
def test_when_the_producer_dies_with_redis_readers_are_told(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str
) -> None:
    cluster = cluster_of()
    node, other = cluster.nodes
    post = exchanges.enter_context(node.posting(name, "[[tokens=400 rate=20 seed=7]]"))
    post.first(4000)
    ref = ref_of(cluster, name)
    worker = cluster.db.hget(keys.record(ref), "worker").decode()
    before = aof_bytes(cluster.redis)
    had = post.first(len(post.data) + 4000)
    cluster.redis.stop()
    cluster.kill(worker)
    cluster.redis.lose(aof_bytes(cluster.redis) - before)
    cluster.redis.start()

    cut = post.cut()
    assert cut.startswith(had)
    until(lambda: int(cluster.db.hget(keys.record(ref), "attempt") or 0) >= 2)
    told = node.read(name, from_=len(cut))
    assert told.status_code == 416
    error = error_of(told)
    assert error["reason"] == "forgotten" and error["size"] < len(cut)
    # What lies below is the same; above it the answer is told anew.
    log = follow(other, name, other.reading(name))
    assert log[: error["size"]] == cut[: error["size"]]
    assert text_of(events(log)) == answer_to("[[tokens=400 rate=20 seed=7]]")
    assert node.read(name, from_=error["size"]).content == log[error["size"] :]


@pytest.mark.guarantee("T40")
@pytest.mark.clause("REC-8")
def test_a_forgotten_takeover_is_taken_up_by_the_one_who_had_it(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str
) -> None:
    words = "[[tokens=500 rate=20 seed=7]]"
    cluster = cluster_of()
    node, other = cluster.nodes
    post = exchanges.enter_context(node.posting(name, words))
    post.first(2000)
    ref = ref_of(cluster, name)
    first = cluster.db.hget(keys.record(ref), "worker").decode()
    before = aof_bytes(cluster.redis)
    with cluster.held(first):
        until(lambda: cluster.db.hget(keys.record(ref), "attempt") == b"2")
        post.first(len(post.data) + 2000)  # the second worker's bytes are delivered
        cluster.redis.stop()
        cluster.redis.lose(aof_bytes(cluster.redis) - before)
        cluster.redis.start()
        until(lambda: cluster.db.hget(keys.record(ref), "attempt") == b"2")
    log = follow(other, name, post)
    assert text_of(events(log)) == answer_to(words)
    assert node.read(name).content == log
    assert cluster.db.hget(keys.record(ref), "attempt") == b"2"


@pytest.mark.guarantee("T40")
@pytest.mark.clause("STOP-8")
@pytest.mark.parametrize("keep", [False, True])
def test_a_stop_that_was_forgotten_is_issued_again(
    cluster_of: Callable[..., Breakable], exchanges: ExitStack, name: str, keep: bool
) -> None:
    cluster = cluster_of()
    node, other = cluster.nodes
    post = exchanges.enter_context(node.posting(name, "[[tokens=100000 rate=20]]"))
    post.first(2000)
    before = aof_bytes(cluster.redis)
    assert node.stop(name, keep=str(keep).lower()).status_code == 204
    cluster.redis.stop()
    cluster.redis.lose(aof_bytes(cluster.redis) - before)
    cluster.redis.start()

    def settled() -> bool:
        found = other.http.post("/v1/streams/lookup", json={"conversation_ids": [name]})
        if found.status_code == 503:
            return False
        states = [one["state"] for one in found.json()]
        return states == (["stopped"] if keep else [])

    until(settled)
    until(lambda: name not in cluster.live())
    assert settled()


@pytest.mark.guarantee("T40")
@pytest.mark.clause("LOG-7")
def test_an_epoch_that_redis_forgot_never_comes_again(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    cluster = cluster_of()
    node, other = cluster.nodes
    assert node.post(name, "[[tokens=5 rate=0]]").status_code == 200
    before = aof_bytes(cluster.redis)
    given = []
    for _ in range(3):
        assert node.post(name, "[[tokens=5 rate=0]]").status_code == 200
        given.append(node.found(name)["epoch"])
    cluster.kill("worker-1", signal.SIGKILL)
    cluster.kill("worker-2", signal.SIGKILL)
    cluster.redis.stop()
    cluster.redis.lose(aof_bytes(cluster.redis) - before)
    cluster.redis.start()
    cluster.well()
    answer = until(lambda: _answered(other, name))
    assert int(answer.headers["X-Stream-Epoch"]) > max(given)


def _answered(node: Node, name: str):  # type: ignore[no-untyped-def]
    answer = node.post(name, "[[tokens=5 rate=0]]")
    return answer if answer.status_code == 200 else None


@pytest.mark.guarantee("T40")
@pytest.mark.clause("GET-11")
def test_until_producers_have_had_their_say_nobody_says_that_there_is_nothing(
    cluster_of: Callable[..., Breakable], name: str
) -> None:
    cluster = cluster_of(workers=1, REPLAY_LEASE_S="3")
    node = cluster.nodes[0]
    assert node.read(name).status_code == 404
    assert node.stop(name).status_code == 204
    cluster.redis.restart(after_s=1.5)

    told = [node.read(name), node.stop(name), node.read(name, epoch=5)]
    told.append(node.http.post("/v1/streams/lookup", json={"conversation_ids": [name]}))
    for answer in told:
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) > 0
    until(lambda: node.read(name).status_code == 404)
    assert node.stop(name).status_code == 204
