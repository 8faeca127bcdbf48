"""How sessions end, clause by clause."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from redis import Redis

from replay.records import FINAL_STATES, Reason

from .frail import Frail
from .stored import Plant, planted, stored
from .wire import DONE, Node, end_comment, events, frames, text_of

PROTOCOL = Path(__file__).parents[2] / "PROTOCOL.md"
LONG = "[[tokens=100000 rate=50]]"
ENDS = {
    "[[tokens=8 rate=0]]": ("completed", "stop"),
    "[[tokens=8 rate=0]] max": ("completed", "length"),
    "[[tokens=8 rate=0 fail_at=4]]": ("failed", "engine"),
}
ERROR = b'data: {"error":'


def reasons() -> dict[str, list[str]]:
    """PROTOCOL.md's table of states and their reasons."""
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \|$", PROTOCOL.read_text("utf-8"), re.MULTILINE)
    return {state: told.split(", ") for state, told in rows if state in set(FINAL_STATES)}


@pytest.mark.clause("END-1")
def test_the_table_has_every_state_and_reason() -> None:
    assert set(reasons()) == set(FINAL_STATES)
    assert {reason for row in reasons().values() for reason in row} == set(Reason)


@pytest.mark.clause("END-1")
@pytest.mark.clause("END-2")
@pytest.mark.parametrize("words", ENDS)
def test_an_end_is_stored_once_and_told_the_same_everywhere(
    nodes: tuple[Node, Node], db: Redis, name: str, words: str
) -> None:
    state, reason = ENDS[words]
    limit = 3 if "max" in words else -1
    with nodes[0].posting(name, words, max_tokens=limit) as post:
        log = post.whole()
    for node in nodes:
        found = node.found(name)
        assert (found["state"], found["reason"], found["is_done"]) == (state, reason, True)
        with node.reading(name) as reader:
            assert reader.headers["x-stream-state"] == state
            assert reader.whole() == log
    session = stored(db, name)
    assert session.end == {"state": state, "reason": reason, "size": len(log)}
    assert (session.fields["state"], session.fields["reason"]) == (state, reason)
    assert sum(b"end" in found for _, found in session.entries) == 1
    assert log.count(b"[DONE]") == (state == "completed")


@pytest.mark.clause("END-1")
@pytest.mark.clause("END-2")
def test_a_stop_of_what_has_ended_changes_nothing(node: Node, db: Redis, name: str) -> None:
    log = node.post(name, "[[tokens=4 rate=0]]", stream=True).content
    node.stop(name, keep="true")
    node.stop(name, keep="true")
    found = node.found(name)
    assert (found["state"], found["reason"]) == ("completed", "stop")
    assert stored(db, name).log == log and log.endswith(DONE)


@pytest.mark.clause("END-1")
@pytest.mark.parametrize(
    ("state", "reason"), [(state, reason) for state, row in reasons().items() for reason in row]
)
def test_every_end_of_the_table_is_told_by_any_node(
    nodes: tuple[Node, Node], db: Redis, name: str, state: str, reason: str
) -> None:
    session = planted(db, Plant(name))
    for node in nodes:
        assert (node.found(name)["state"], node.found(name)["is_done"]) == ("running", False)
    session.conclude(state, reason, b":\n\n")
    for node in nodes:
        found = node.found(name)
        assert (found["state"], found["reason"], found["is_done"]) == (state, reason, True)
        assert node.read(name).content == b":\n\n"


@pytest.mark.clause("END-2")
@pytest.mark.parametrize("reason", ["client", "replaced"])
def test_a_stopped_log_ends_with_the_comment_alone(
    node: Node, other: Node, name: str, reason: str
) -> None:
    with node.posting(name, LONG) as post:
        post.first(1)
        if reason == "client":
            other.stop(name)
        else:
            other.post(name, "[[tokens=4 rate=0]]")
        log = post.whole()
    assert log.endswith(end_comment("stopped", reason))
    assert ERROR not in log and b"[DONE]" not in log


@pytest.mark.clause("END-2")
def test_a_failed_log_ends_with_the_error_then_the_comment(node: Node, name: str) -> None:
    with node.posting(name, "[[tokens=8 rate=20 fail_at=4]]") as post:
        log = post.whole()
    error, end = frames(log)[-2:]
    assert error.startswith(ERROR) and end + b"\n\n" == end_comment("failed", "engine")
    told = json.loads(error[6:])["error"]
    assert (told["code"], told["type"]) == (500, "server_error")
    assert log.count(ERROR) == 1 and b"[DONE]" not in log


@pytest.mark.clause("REC-2")
@pytest.mark.clause("REC-5")
def test_a_session_whose_worker_died_is_gone_on_with(frail: Frail, name: str) -> None:
    node, other = frail.nodes
    prompt = "[[tokens=60 rate=30 seed=7]]"
    node.post(name + "-whole", prompt, model="one")
    whole = node.read(name + "-whole").content
    with node.posting(name, prompt, model="one") as post:
        post.first(1)
        session = stored(frail.db, name)
        frail.kill("worker-1")
        log = post.whole()
    assert log.endswith(b"data: [DONE]\n\n")
    assert text_of(events(log)) == text_of(events(whole))
    assert (session.takeovers >= 1, session.fields["token_count"]) == (True, "60")
    assert other.read(name).content == log


@pytest.mark.clause("REC-6")
def test_what_kills_two_workers_ends_as_poison_and_its_neighbour_goes_on(
    frail: Frail, name: str
) -> None:
    node, other = frail.nodes
    with node.posting(name + "-neighbour", "[[tokens=400 rate=50 seed=7]]", model="one") as good:
        good.first(1)
        with node.posting(name, "[[tokens=40 rate=50 die_at=5]]", model="one") as post:
            log = post.whole()
        assert log.endswith(end_comment("failed", "poison"))
        assert log.count(ERROR) == 1 and b"[DONE]" not in log
        assert stored(frail.db, name).takeovers == 1
        assert good.whole().endswith(DONE)
    assert other.found(name)["reason"] == "poison"
