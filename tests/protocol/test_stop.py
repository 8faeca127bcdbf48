"""DELETE /v1/stream, clause by clause."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest
from redis import Redis

from .frail import Frail
from .stored import stored
from .wire import CHAT, STREAM, Node, asking, end_comment, error_of, naming, until

LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
AT_ONCE_S = 10.0
"""Of sixty that its prompt takes; a machine may be busy with other tests."""


@pytest.mark.clause("STOP-1")
def test_a_stop_is_204_for_the_known_and_the_unknown(node: Node, other: Node, name: str) -> None:
    node.post(name, SHORT)
    answers = [one.stop(called) for called in (name, name, f"{name}-no") for one in (node, other)]
    assert [(one.status_code, one.content) for one in answers] == [(204, b"")] * 6


@pytest.mark.clause("STOP-1")
@pytest.mark.parametrize(
    "wrong", [STREAM, f"{STREAM}/", f"{STREAM}?conv_id=", f"{STREAM}?conv_id=a&conv_id=b"]
)
def test_a_stop_without_an_id_is_400(node: Node, wrong: str) -> None:
    assert node.http.delete(wrong).status_code == 400


@pytest.mark.clause("STOP-1")
@pytest.mark.parametrize("epoch", ["x", "-1", "1.5", ""])
def test_a_stop_with_a_malformed_epoch_is_400(node: Node, name: str, epoch: str) -> None:
    assert node.stop(name, epoch=epoch).status_code == 400


@pytest.mark.clause("STOP-1")
@pytest.mark.clause("HEALTH-1")
def test_a_stop_that_the_log_does_not_hear_is_503(frail: Frail, name: str) -> None:
    node = frail.nodes[0]
    with frail.log_plane.out():
        for called in (name, f"{name}::one"):
            response = node.stop(called)
            assert (response.status_code, error_of(response)["type"]) == (503, "unavailable_error")
        assert node.http.get("/ready").status_code == 503
        assert node.http.get("/health").status_code == 200


@pytest.mark.clause("STOP-2")
@pytest.mark.usefixtures("occupied")
def test_a_queued_session_is_stopped_and_its_job_leaves_the_queue(
    node: Node, other: Node, db: Redis, name: str
) -> None:
    with node.posting(name, SHORT) as post:
        session = stored(db, name)
        until(lambda: db.zcard(session.keys.queue))
        assert other.stop(name).headers["x-stream-state"] == "stopped"
        assert db.zcard(session.keys.queue) == 0
        assert post.status == 400
    assert (session.fields["attempt"], session.fields["token_count"]) == ("0", "0")


@pytest.mark.clause("STOP-2")
def test_a_session_in_prefill_is_stopped_and_its_post_ends_at_once(
    node: Node, other: Node, name: str
) -> None:
    with node.posting(name, "[[prefill_s=60]]") as post:
        other.reaches(name, "running")
        asked_s = time.monotonic()
        other.stop(name, keep="true")
        assert (post.status, post.error()["reason"]) == (400, "client")
        assert time.monotonic() - asked_s < AT_ONCE_S


@pytest.mark.clause("STOP-2")
def test_no_token_is_appended_after_the_answer_to_a_stop(
    node: Node, other: Node, db: Redis, name: str
) -> None:
    with node.posting(name, "[[tokens=100000 rate=400]]") as post:
        post.first(2000)
        session = stored(db, name)
        size = int(other.stop(name, keep="true").headers["x-stream-size"])
        count = int(session.fields["token_count"])
        assert len(post.whole()) == size
    # Its slot has been let go, so nothing can come any more.
    until(lambda: _all_slots_free(node))
    assert len(session.log) == int(session.fields["end"]) == size
    assert db.strlen(session.keys.tokens) == 8 * count == 8 * int(session.fields["token_count"])


def _all_slots_free(node: Node) -> bool:
    return all(one["meta"]["slots_free"] == one["meta"]["slots"] for one in node.models())


@pytest.mark.clause("STOP-3")
def test_a_stop_evicts_all_that_is_retained(node: Node, other: Node, name: str) -> None:
    first = node.post(name, SHORT).headers["x-stream-epoch"]
    with node.posting(name, LONG) as post:
        post.first(1)
        with other.reading(name) as reader:
            reader.first(1)
            other.stop(name)
            assert reader.whole() == post.whole()
            assert reader.data.endswith(end_comment("stopped", "client"))
    for one in (node, other):
        response = one.read(name)
        assert (response.status_code, "stopped" in error_of(response)["reason"]) == (404, True)
        assert one.read(name, epoch=first).status_code == 404
        assert one.lookup(name) == []


@pytest.mark.clause("STOP-3")
def test_a_stop_that_keeps_leaves_what_was_said(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG) as post:
        post.first(1)
        assert other.stop(name, keep="true").status_code == 204
        log = post.whole()
    assert node.read(name).content == other.read(name).content == log
    assert (node.found(name)["state"], node.found(name)["reason"]) == ("stopped", "client")


@pytest.mark.clause("STOP-4")
def test_a_stop_of_another_epoch_touches_nothing(node: Node, other: Node, name: str) -> None:
    old = int(node.post(name, SHORT).headers["x-stream-epoch"])
    with node.posting(name, LONG) as post:
        epoch = int(post.headers["x-stream-epoch"])
        for wrong in (old, epoch + 1):
            response = other.stop(name, epoch=wrong)
            assert (response.status_code, error_of(response)["current_epoch"]) == (409, epoch)
        assert other.found(name)["state"] == "running"
        assert other.read(name, epoch=old).status_code == 200
        assert other.stop(name, epoch=epoch).status_code == 204
        assert post.whole().endswith(end_comment("stopped", "client"))


@pytest.mark.clause("STOP-5")
@pytest.mark.parametrize("form", ["query", "path"])
def test_a_stop_tells_what_it_ended(node: Node, other: Node, name: str, form: str) -> None:
    posted = node.post(name, SHORT, stream=True)
    where = f"{STREAM}/{quote(name)}" if form == "path" else f"{STREAM}?conv_id={name}"
    headers = other.http.delete(where).headers
    assert headers["x-stream-epoch"] == posted.headers["x-stream-epoch"]
    assert headers["x-stream-state"] == "completed"
    assert headers["x-stream-size"] == str(len(posted.content))
    again = other.http.delete(where).headers
    assert not {"x-stream-epoch", "x-stream-state", "x-stream-size"} & set(again)


@pytest.mark.clause("STOP-6")
def test_a_stop_refuses_the_post_in_validation_and_no_later_one(
    node: Node, other: Node, name: str, model: str
) -> None:
    body = json.dumps(asking(SHORT, stream=True, model=model)).encode()
    size = {b"Content-Length": b"%d" % len(body), b"Expect": b"100-continue"}
    with node.exchange("POST", CHAT, {**naming(f"{name}::{model}"), **size}) as post:
        post.awaits_body()
        assert other.stop(name).status_code == 204
        post.send(body)
        assert post.status == 400
        assert "stop" in post.error()["message"]
    assert other.lookup(name) == []
    assert node.post(name, SHORT).status_code == 200
