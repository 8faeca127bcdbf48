"""Limits on what is opened; what is there is never touched by them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from .conftest import URLS, made
from .wire import CHAT, Node, asking, error_of, events, naming, until

LONG = "[[tokens=100000 rate=50]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"
KEYS = "small tenant=small\nother tenant=other\n"


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Two tenants of one slot, of whom each may have two waiting and three in all."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: the limits of what runs elsewhere are not known")
    folder = tmp_path_factory.mktemp("limits")
    (folder / "keys").write_text(KEYS)
    settings = {
        "REPLAY_API_KEYS_FILE": str(folder / "keys"),
        "REPLAY_SLOTS": "1",
        "REPLAY_TENANT_QUEUED_MAX": "2",
        "REPLAY_TENANT_LIVE_MAX": "3",
        "REPLAY_QUEUE_DEPTH_MAX": "3",
        "REPLAY_TOKENS_MAX": "30",
        "REPLAY_NAME_BYTES_MAX": "40",
    }
    with (
        made(folder / "state", "--workers", "1", "--api-nodes", "1", **settings) as cluster,
        ExitStack() as stack,
    ):
        small, other = (Node(cluster.nodes[0], key) for key in ("small", "other"))
        for node in (small, other):
            stack.callback(node.http.close)
            until(node.is_sure)
        yield small, other


def refused(response: httpx.Response, status: int, reason: str) -> None:
    assert response.status_code == status
    assert error_of(response)["reason"] == reason
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.clause("LIMIT-1")
@pytest.mark.clause("LIMIT-2")
def test_a_tenant_has_so_many_and_all_of_them_stay(tenants: tuple[Node, Node]) -> None:
    small, other = tenants
    names = [f"c-{secrets.token_hex(4)}" for _ in range(4)]
    running, first, second, third = names
    asked = {"stream": True}
    with ExitStack() as stack:
        stack.callback(lambda: [node.stop(name) for name in names for node in tenants])
        post = stack.enter_context(small.posting(running, "[[tokens=30 rate=1]]"))
        post.first(1)
        for name in (first, second):
            stack.enter_context(small.posting(name, SHORT, **asked))
            small.reaches(name, "queued")
        again = small.post(third, SHORT)
        refused(again, 429, "queued")
        assert error_of(again)["limit"] == 2
        assert small.read(third).status_code == 404
        # Another tenant has a limit of its own, but the queue is one.
        stack.enter_context(other.posting(first, SHORT))
        other.reaches(first, "queued")
        refused(other.post(third, SHORT), 503, "queue")
        with small.reading(first) as reading:
            assert reading.status == 200
        with small.exchange(
            "POST",
            f"{CHAT}?if_busy=attach",
            naming(first),
            json.dumps(asking(SHORT, **asked)).encode(),
        ) as joined:
            until(lambda: small.found(first)["state"] == "queued" and not joined.answers())
            assert small.stop(first, keep="true").headers["x-stream-state"] == "stopped"
            assert joined.status == 400
        assert small.found(running)["state"] == "running"
        small.stop(second)
        small.stop(running)
        other.stop(first)
    assert until(lambda: small.post(third, SHORT).status_code == 200)


@pytest.mark.clause("LIMIT-3")
def test_an_answer_and_a_name_have_only_so_much(tenants: tuple[Node, Node]) -> None:
    small, _ = tenants
    for more in ({}, {"max_tokens": 10**9}):
        with small.posting("c" * 40, LONG.replace("rate=50", "rate=0"), **more) as post:
            last = [one for one in events(post.whole()) if one["choices"][0]["finish_reason"]][-1]
        assert last["choices"][0]["finish_reason"] == "length"
        assert last["timings"]["predicted_n"] == 30
    assert small.post("c" * 41, SHORT).status_code == 400
