"""Signed links, over nodes that share a secret: one session, one way, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.local.cluster import Cluster

from .conftest import URLS, made
from .wire import DONE, Node, error_of, until

SECRETS = "the newest secret we have,the secret before it"
LONG = "[[tokens=600 rate=20]]"
SHORT = "[[tokens=12 rate=0 seed=3]]"


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a key and secrets."""
    if URLS:
        pytest.skip("REPLAY_PROTOCOL_URLS: the secrets of what runs elsewhere are not known")
    settings = {"REPLAY_API_KEYS": "key", "REPLAY_LINK_SECRETS": SECRETS}
    with made(tmp_path_factory.mktemp("linked"), **settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def people(linked: Cluster) -> Iterator[tuple[Node, Node]]:
    """Who has the key, and who has nothing, at another node."""
    with ExitStack() as stack:
        owner, guest = Node(linked.nodes[0], "key"), Node(linked.nodes[1])
        there = Node(linked.nodes[1], "key")
        for node in (owner, guest, there):
            stack.callback(node.http.close)
        until(owner.is_sure)
        until(there.is_sure)
        yield owner, guest


def link(owner: Node, name: str, **fields: object) -> dict[str, Any]:
    """A link to a session."""
    response = owner.http.post("/v1/streams/links", json={"conversation_id": name, **fields})
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


@pytest.mark.clause("LINK-1")
def test_a_guest_reads_and_stops_by_link_on_another_node(people: tuple[Node, Node]) -> None:
    owner, guest = people
    with owner.posting("live", LONG) as post:
        post.first(1)
        read, stop = link(owner, "live"), link(owner, "live", allow="stop")
        assert (read["method"], stop["method"]) == ("GET", "DELETE")
        with guest.exchange("GET", read["url"]) as reading:
            assert reading.status == 200
            reading.first(len(post.first(500)))
            stopped = guest.http.delete(stop["url"])
            assert stopped.headers["x-stream-state"] == "stopped"
            assert reading.whole() == post.whole()
    assert owner.read("live").content == post.data
    assert guest.http.delete(stop["url"]).status_code == 204


@pytest.mark.clause("LINK-2")
def test_a_link_opens_nothing_else(people: tuple[Node, Node]) -> None:
    owner, guest = people
    owner.post("one", SHORT)
    owner.post("two", SHORT)
    told = link(owner, "one")
    url = told["url"]
    assert guest.http.get(f"{url}&from=7").content == owner.read("one", from_=7).content
    other = link(owner, "two")["epoch"]
    for tampered in (
        url.replace("conv_id=one", "conv_id=two"),
        url.replace("conv_id=one", "conv_id=two").replace(str(told["epoch"]), str(other)),
        url.replace("conv_id=one", "conv_id=never"),
        url.replace("read.", "stop."),
        url.replace(str(told["expires_at"]), str(told["expires_at"] + 1)),
        url[:-3] + "abc",
    ):
        refused = guest.http.get(tampered)
        assert (refused.status_code, error_of(refused)["reason"]) == (403, "link invalid")
    assert guest.http.delete(url + "&keep=true").status_code == 403
    brief = link(owner, "one", expires_in_s=1)["url"]
    expired = until(lambda: (found := guest.http.get(brief)).status_code == 403 and found)
    assert error_of(expired)["reason"] == "link expired"


@pytest.mark.clause("LINK-3")
def test_a_link_is_told_to_nobody(linked: Cluster, people: tuple[Node, Node]) -> None:
    owner, guest = people
    log = owner.post("secret", SHORT, stream=True).content
    url = link(owner, "secret")["url"]
    answer = guest.http.get(url)
    assert answer.content == log and log.endswith(DONE)
    assert answer.headers["referrer-policy"] == "no-referrer"
    guest.http.get(url + "&from=x")
    guest.http.get(url.replace("/v1/stream?", "/v1/stream/nothing?"))
    [token] = parse_qs(urlsplit(url).query)["link"]
    logs = [file.read_text() for file in (linked.state_dir / "log").iterdir()]
    assert logs and not any(token in text or "conv_id=" in text for text in logs)
