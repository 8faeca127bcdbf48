"""POST /v1/streams/lookup, clause by clause."""

from __future__ import annotations

import time

import pytest

from .wire import Node, error_of

LOOKUP = "/v1/streams/lookup"
FIELDS = {
    "conversation_id",
    "is_done",
    "total_bytes",
    "started_at",
    "completed_at",
    "state",
    "reason",
    "epoch",
    "model",
    "completion_id",
    "queue_position",
}
LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"


@pytest.mark.clause("LOOKUP-1")
def test_a_finished_session_is_told(node: Node, other: Node, name: str, model: str) -> None:
    before = int(time.time())
    response = node.post(name, SHORT, stream=True)
    [found] = other.lookup(name)
    assert set(found) >= FIELDS
    assert before <= found["started_at"] <= found["completed_at"] <= time.time()
    assert found["is_done"] is True
    assert (found["conversation_id"], found["model"]) == (name, model)
    assert (found["state"], found["reason"]) == ("completed", "stop")
    assert found["total_bytes"] == len(response.content)
    assert str(found["epoch"]) == response.headers["x-stream-epoch"]
    assert found["completion_id"] == response.headers["x-completion-id"]
    assert found["queue_position"] is None


@pytest.mark.clause("LOOKUP-1")
def test_a_live_session_is_told(node: Node, other: Node, name: str) -> None:
    with node.posting(name, LONG) as post:
        begun = len(post.first(1))
        [found] = other.lookup(name)
        assert (found["is_done"], found["completed_at"], found["reason"]) == (False, 0, "")
        assert (found["state"], found["queue_position"]) == ("running", None)
        assert found["total_bytes"] >= begun
        other.stop(name)


@pytest.mark.clause("LOOKUP-1")
@pytest.mark.usefixtures("occupied")
def test_a_queued_session_is_told_with_its_place(node: Node, other: Node, name: str) -> None:
    names = [f"{name}-{number}" for number in range(2)]
    with node.posting(names[0], SHORT):
        assert other.place(names[0]) == 0
        with node.posting(names[1], SHORT):
            assert other.place(names[1]) == 1
            assert other.stop(names[0]).status_code == 204
            [found] = other.lookup(names[1])
            assert (found["state"], found["queue_position"]) == ("queued", 0)
            other.stop(names[1])


@pytest.mark.clause("LOOKUP-1")
def test_an_id_finds_itself_and_what_begins_with_it(
    node: Node, other: Node, name: str, model: str
) -> None:
    named = [f"{name}::{model}", f"{name}::branch", f"{name}::branch::{model}", f"{name}x"]
    for one in named:
        node.post(one, SHORT, model=model)
    # The third is the second's conversation, less its model.
    assert {one["conversation_id"] for one in other.lookup(name)} == {named[0], named[2]}
    assert [one["conversation_id"] for one in other.lookup(named[2])] == [named[2]]
    assert other.lookup(name[:-1]) == []


@pytest.mark.clause("LOOKUP-1")
def test_the_current_session_alone_is_told(node: Node, other: Node, name: str) -> None:
    node.post(name, SHORT)
    epoch = node.post(name, SHORT).headers["x-stream-epoch"]
    assert [str(one["epoch"]) for one in other.lookup(name, name)] == [epoch]


@pytest.mark.clause("LOOKUP-2")
def test_what_is_no_string_is_ignored(node: Node, name: str) -> None:
    node.post(name, SHORT)
    found = node.lookup(1, None, "", [name], {"a": name}, True, name)
    assert [one["conversation_id"] for one in found] == [name]


@pytest.mark.clause("LOOKUP-2")
@pytest.mark.parametrize("body", ["{}", "[]", '{"conversation_ids": "c"}', "null", "7"])
def test_no_array_is_an_empty_answer(node: Node, body: str) -> None:
    response = node.http.post(LOOKUP, content=body)
    assert (response.status_code, response.json()) == (200, [])


@pytest.mark.clause("LOOKUP-2")
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1,]"])
def test_malformed_json_is_400(node: Node, body: bytes) -> None:
    response = node.http.post(LOOKUP, content=body)
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")


@pytest.mark.clause("LOOKUP-2")
def test_there_is_no_list(node: Node, name: str) -> None:
    node.post(name, SHORT)
    assert node.lookup() == node.lookup("*", "c*", ":", "::", "c-") == []
    assert [node.http.get(path).status_code for path in ("/v1/streams", LOOKUP)] == [404, 404]
