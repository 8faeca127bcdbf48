"""GET /v1/stream, clause by clause."""

from __future__ import annotations

import json
import signal
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import pytest
from redis import Redis

from .frail import Frail
from .stored import Plant, encoded, planted, stored
from .wire import DONE, STREAM, Exchange, Node, end_comment, error_of, target, until

Announce = Callable[[dict[str, Any]], None]
LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
PIECE = b": " + b"x" * 4091 + b"\n\n"
"""A frame of 4 KiB."""

NO_DECIMALS = ["-1", "+1", "%2B1", "1e3", "0x10", "1.0", "1_0", "%201", "1%20", "", "%D9%A3", "a"]
NAMES = ["a/b//c", "50%25", "{tag}", "two words", "é🙂", "x::y", "1+1=2&x", "?#", "..", "a\\b;c"]


@pytest.fixture(scope="module")
def finished(node: Node) -> tuple[str, bytes]:
    """A name and its finished log."""
    return "get-finished", node.post("get-finished", SHORT, stream=True).content


@pytest.mark.clause("GET-1")
def test_any_offset_of_a_finished_log_gives_the_rest_everywhere(
    nodes: tuple[Node, Node], finished: tuple[str, bytes]
) -> None:
    name, log = finished
    for offset in range(0, len(log) + 1, 37):
        for node in nodes:
            response = node.read(name, from_=offset)
            assert (response.status_code, response.content) == (200, log[offset:])
            assert response.headers["x-stream-offset"] == str(offset)
            assert response.headers["x-stream-state"] == "completed"


@pytest.mark.clause("GET-1")
def test_any_offset_of_a_live_log_gives_the_same_bytes_then_what_comes(
    nodes: tuple[Node, Node], name: str
) -> None:
    with nodes[0].posting(name, "[[tokens=120 rate=30 seed=5]]") as post, ExitStack() as stack:
        begun = len(post.first(1000))
        readers = []
        for offset in (0, 1, 7, begun // 2, begun - 1, begun):
            for node in nodes:
                reader = stack.enter_context(node.reading(name, from_=offset))
                readers.append((offset, reader))
        assert nodes[1].found(name)["state"] == "running"
        log = post.whole()
        for offset, reader in readers:
            assert (reader.status, reader.whole()) == (200, log[offset:])


@pytest.fixture
def compacted(db: Redis, name: str) -> bytes:
    """A finished log of two blocks."""
    planted(db, Plant(name, (PIECE,) * 6, state="completed", reason="stop")).compact(4, 2)
    return PIECE * 6


@pytest.mark.clause("GET-9")
@pytest.mark.parametrize("offset", [0, 1, len(PIECE), 4 * len(PIECE), 5 * len(PIECE) + 7])
def test_a_client_that_takes_gzip_gets_one_member(
    node: Node, name: str, compacted: bytes, offset: int
) -> None:
    asked = target(STREAM, conv_id=name, from_=offset)
    with node.exchange("GET", asked, {b"Accept-Encoding": b"br, gzip;q=0.5"}) as reader:
        sent = reader.whole()
    assert reader.headers["content-encoding"] == "gzip"
    assert reader.headers["content-type"] == "text/event-stream"
    assert reader.headers["x-stream-offset"] == str(offset)
    assert len(sent) < len(compacted) / 10
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert decoder.decompress(sent) == compacted[offset:]
    assert decoder.eof and not decoder.unused_data


@pytest.mark.clause("GET-9")
def test_at_the_end_a_gzipped_answer_is_empty_too(node: Node, name: str, compacted: bytes) -> None:
    response = node.read(name, from_=len(compacted))
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.clause("GET-9")
@pytest.mark.parametrize("accepted", [None, b"", b"identity", b"gzip;q=0", b"br", b"*;q=0"])
def test_a_client_that_takes_no_gzip_gets_the_bytes(
    node: Node, name: str, compacted: bytes, accepted: bytes | None
) -> None:
    headers = {} if accepted is None else {b"Accept-Encoding": accepted}
    with node.exchange("GET", target(STREAM, conv_id=name), headers) as reader:
        assert reader.whole() == compacted
    assert "content-encoding" not in reader.headers
    assert "accept-encoding" in reader.headers["vary"].lower()


@pytest.mark.clause("GET-9")
def test_what_is_not_compacted_is_not_compressed(
    node: Node, finished: tuple[str, bytes], name: str
) -> None:
    response = node.read(finished[0])
    assert "gzip" in response.request.headers["accept-encoding"]
    assert "accept-encoding" in response.headers["vary"].lower()
    with node.posting(name, LONG) as post:
        post.first(1)
        gzip = {b"Accept-Encoding": b"gzip"}
        with node.exchange("GET", target(STREAM, conv_id=name), gzip) as reader:
            assert reader.first(100).startswith(b"data: {")
    for answer in (response.headers, post.headers, reader.headers):
        assert "content-encoding" not in answer


@pytest.mark.clause("GET-2")
@pytest.mark.parametrize("text", [*NO_DECIMALS, "1&from=1"])
def test_a_from_that_is_no_plain_decimal_is_400(
    node: Node, finished: tuple[str, bytes], text: str
) -> None:
    with node.exchange("GET", f"{STREAM}?conv_id={finished[0]}&from={text}") as answer:
        assert answer.status == 400
        assert "from" in answer.error()["message"]


@pytest.mark.clause("GET-2")
def test_leading_zeros_are_plain(node: Node, finished: tuple[str, bytes]) -> None:
    name, log = finished
    assert node.read(name, from_="007").content == log[7:]


@pytest.mark.clause("GET-3")
def test_below_the_window_is_410_with_the_first_offset(node: Node, db: Redis, name: str) -> None:
    planted(db, Plant(name, (b":\n\n",), start=100, state="completed", reason="stop"))
    for below in (0, 99):
        response = node.read(name, from_=below)
        assert (response.status_code, error_of(response)["first_offset"]) == (410, 100)
    assert node.read(name, from_=100).content == b":\n\n"


@pytest.mark.clause("GET-3")
@pytest.mark.parametrize("beyond", [1, 10**6, 2**53, 2**64, 10**400])
def test_beyond_the_end_is_416_with_the_size(
    node: Node, finished: tuple[str, bytes], beyond: int
) -> None:
    name, log = finished
    response = node.read(name, from_=len(log) + beyond)
    assert (response.status_code, error_of(response)["size"]) == (416, len(log))


@pytest.mark.clause("GET-3")
def test_beyond_the_end_of_a_live_log_is_416(node: Node, db: Redis, name: str) -> None:
    planted(db, Plant(name, (b":\n\n",)))
    response = node.read(name, from_=4)
    assert (response.status_code, error_of(response)["size"]) == (416, 3)


@pytest.mark.clause("GET-3")
def test_at_the_end_of_an_ended_session_there_is_nothing_more(
    node: Node, finished: tuple[str, bytes]
) -> None:
    name, log = finished
    with node.reading(name, from_=len(log)) as reader:
        assert (reader.status, reader.chunk()) == (200, b"")


@pytest.mark.clause("GET-4")
@pytest.mark.parametrize("text", NAMES)
def test_both_forms_are_decoded_once(node: Node, other: Node, name: str, text: str) -> None:
    named = f"{text} {name}"
    log = node.post(named, SHORT, stream=True).content
    forms = [
        target(STREAM, conv_id=named),
        f"{STREAM}/{quote(named, safe='')}",
        f"{STREAM}/{quote(named, safe='/:')}",
    ]
    for form in forms:
        with other.exchange("GET", form) as answer:
            assert (answer.status, answer.whole()) == (200, log), form


@pytest.mark.clause("GET-4")
def test_the_name_the_conversation_and_its_model_all_mean_the_session(
    node: Node, other: Node, name: str, model: str
) -> None:
    log = node.post(name, SHORT, stream=True).content
    assert other.read(name).content == other.read(f"{name}::{model}").content == log
    assert other.read(f"{name}::other").status_code == 404
    assert other.read(name[:-1]).status_code == 404


@pytest.mark.clause("GET-4")
def test_a_404_says_what_became_of_the_session(node: Node, other: Node, name: str) -> None:
    assert "reason" in error_of(node.read(name))
    node.post(name, SHORT)
    other.stop(name)
    response = node.read(name)
    assert (response.status_code, error_of(response)["type"]) == (404, "not_found_error")
    assert "completed" in error_of(response)["reason"]


@pytest.mark.clause("GET-5")
def test_an_epoch_is_read_until_its_retention_ends(
    node: Node, other: Node, db: Redis, name: str
) -> None:
    first = node.post(name, SHORT, stream=True)
    second = node.post(name, "[[tokens=3 rate=0]]", stream=True)
    old, new = (int(one.headers["x-stream-epoch"]) for one in (first, second))
    assert other.read(name, epoch=old).content == first.content
    assert other.read(name, epoch=new).content == other.read(name).content == second.content
    session = stored(db, name)
    session.redis.hset(session.keys.record.replace(str(new), str(old)), "expires_ms", 1)
    assert other.read(name, epoch=old).status_code == 410


@pytest.mark.clause("GET-5")
def test_an_epoch_that_was_never_given_is_409(node: Node, name: str) -> None:
    epoch = int(node.post(name, SHORT).headers["x-stream-epoch"])
    response = node.read(name, epoch=epoch + 1)
    assert (response.status_code, error_of(response)["current_epoch"]) == (409, epoch)


@pytest.mark.clause("GET-5")
def test_a_reader_of_one_epoch_gets_no_byte_of_another(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG) as post:
        post.first(1)
        with other.reading(name) as reader:
            reader.first(1)
            second = other.post(name, SHORT, stream=True).content
            log = reader.whole()
        assert log == post.whole()
    assert log.endswith(end_comment("stopped", "replaced")) and second not in log


@pytest.mark.clause("GET-6")
def test_a_loading_model_is_503_while_nothing_lies_past_the_offset(
    node: Node, db: Redis, name: str, ghost: Announce
) -> None:
    ghost({"name": name, "status": "loading"})
    planted(db, Plant(name, (b":\n\n",), state="queued", model=name))
    response = node.read(name, from_=3)
    assert (response.status_code, response.headers["retry-after"].isdigit()) == (503, True)
    with node.reading(name, from_=1) as reader:
        assert (reader.status, reader.first(2)) == (200, b"\n\n")


@pytest.mark.clause("GET-6")
@pytest.mark.usefixtures("occupied")
def test_a_queued_session_is_200_and_kept_alive(node: Node, other: Node, name: str) -> None:
    with node.posting(name, SHORT, sse_ping_interval=1):
        assert other.found(name)["state"] == "queued"
        with other.reading(name) as reader:
            assert (reader.status, reader.headers["x-stream-state"]) == (200, "queued")
            assert reader.first(1).startswith(b":")
        other.stop(name)


@pytest.mark.clause("GET-7")
def test_a_stopped_session_ends_cleanly(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG) as post:
        post.first(1)
        with other.reading(name) as reader:
            assert reader.status == 200
            other.stop(name)
            assert reader.whole().endswith(end_comment("stopped", "client"))


@pytest.mark.clause("GET-7")
def test_a_lost_session_cuts_its_readers(node: Node, db: Redis, name: str) -> None:
    session = planted(db, Plant(name, (b":\n\n",), ping_interval_s=1))
    with node.reading(name) as reader:
        reader.first(3)
        db.delete(session.keys.record)
        assert reader.cut() == b":\n\n"


@pytest.mark.clause("GET-7")
@pytest.mark.clause("HEALTH-1")
def test_a_drain_cuts_the_readers_and_is_not_ready(frail: Frail, name: str) -> None:
    node, other = frail.nodes
    with other.posting(name, LONG, model="one") as post:
        post.first(1)
        with node.reading(name) as reader:
            reader.first(1)
            frail.kill("api-1", signal.SIGTERM)
            until(lambda: node.http.get("/ready").status_code == 503)
            assert node.http.get("/health").status_code == 200
            got = reader.cut()
        assert post.first(len(got)).startswith(got)


@pytest.mark.clause("GET-7")
def test_a_reader_that_is_too_slow_is_cut(frail: Frail, name: str) -> None:
    planted(frail.db, Plant(name, (PIECE,) * 512, state="completed", reason="stop"))
    where = target(STREAM, conv_id=name)
    with Exchange(frail.nodes[0].url, "GET", where, receive_buffer_bytes=4096) as reader:
        reader.first(1)
        until(lambda: _readers(frail.db) == 1)
        until(lambda: _readers(frail.db) == 0)
        assert len(reader.cut()) < 512 * len(PIECE)


def _readers(db: Redis) -> int:
    """How many readers the nodes have by their last heartbeats."""
    ids = [one.decode() for one in db.zrange("rc:nodes", 0, -1)]
    texts = [db.get(f"rc:node:{encoded(one)}") for one in ids]
    return sum(json.loads(text)["readers"] for text in texts if text)


@pytest.mark.clause("GET-7")
def test_an_absence_of_the_log_is_waited_out(frail: Frail, name: str) -> None:
    planted(frail.db, Plant(name, (PIECE,) * 1024, state="completed", reason="stop"))
    where = target(STREAM, conv_id=name)
    with Exchange(frail.nodes[0].url, "GET", where, receive_buffer_bytes=4096) as reader:
        reader.first(1)
        with frail.log_plane.out():
            pass
        assert reader.whole() == 1024 * PIECE


@pytest.mark.clause("GET-8")
def test_readers_are_passive(nodes: tuple[Node, Node], db: Redis, name: str) -> None:
    with nodes[0].posting(name, "[[tokens=120 rate=150]]") as post, ExitStack() as stack:
        post.first(1)
        record = stored(db, name).fields
        readers = [stack.enter_context(node.reading(name)) for node in nodes for _ in range(8)]
        for reader in readers[::2]:
            reader.first(1)
            reader.close()
        stalled, *rest = readers[1::2]
        log = post.whole()
        assert [reader.whole() for reader in rest] == [log] * len(rest)
        assert log.endswith(DONE) and stalled.answers()
    after = stored(db, name).fields
    assert (after["attempt"], after["state"]) == (record["attempt"], "completed")
