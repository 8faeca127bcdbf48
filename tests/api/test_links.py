"""Signed links: what one opens, and that nothing can be made of it but what was signed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from node_harness import NodeHarness, error_of, memory_node
from starlette.types import Scope as AsgiScope

from api.keyring import Access, Scope
from api.links import Link, Signer
from api.problems import LinkInvalid

pytestmark = pytest.mark.anyio

OLD, NEW = "an old secret of ours", "a new secret of ours"
MINE = {"Authorization": "Bearer one"}
NAMES = ("c", "a b/c::d?&=#", "größe", "a/links")


@pytest.fixture
async def node() -> AsyncIterator[NodeHarness]:
    """A node with two tenants that signs links."""
    async with memory_node(api_keys="one,two", link_secrets=f"{NEW},{OLD}") as node:
        yield node


async def answered(node: NodeHarness, name: str = "c") -> bytes:
    """A finished session of the first tenant's."""
    node.http.headers.update(MINE)
    log = await node.answered(name)
    del node.http.headers["Authorization"]
    return log


async def made(node: NodeHarness, name: str = "c", **body: Any) -> dict[str, Any]:
    """A link, as its answer tells of it."""
    asked = {"conversation_id": name, **body}
    response = await node.http.post("/v1/streams/links", json=asked, headers=MINE)
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


def changed(url: str, **parameters: str | None) -> str:
    """The URL with other parameters; None leaves one out."""
    path, query = urlsplit(url)[2:4]
    both = {**dict(parse_qsl(query)), **parameters}
    return f"{path}?{urlencode({key: value for key, value in both.items() if value is not None})}"


def assert_refused(response: httpx.Response, reason: str = "link invalid") -> None:
    error = error_of(response)
    assert (error["code"], error["type"]) == (403, "permission_error")
    assert error["reason"] == reason


@pytest.mark.parametrize("name", NAMES)
async def test_whoever_has_the_link_reads_without_a_key(node: NodeHarness, name: str) -> None:
    log = await answered(node, name)
    told = await made(node, name)
    response = await node.http.get(told["url"])
    assert (response.status_code, response.content) == (200, log)
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Stream-Epoch"] == str(told["epoch"])
    assert (await node.http.get(told["url"] + "&from=5")).content == log[5:]
    assert (await node.http.get("/v1/stream?conv_id=c")).status_code == 401


async def test_a_link_to_stop_stops_and_keeps(node: NodeHarness) -> None:
    node.http.headers.update(MINE)
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.say("one")
    told = await made(node, allow="stop")
    del node.http.headers["Authorization"]
    assert told["method"] == "DELETE"
    assert_refused(await node.http.get(told["url"]))
    assert_refused(await node.http.delete(changed(told["url"], keep=None)))
    assert_refused(await node.http.delete(changed(told["url"], keep="false")))
    assert_refused(await node.http.delete(changed(told["url"], keep="perhaps")))
    response = await node.http.delete(told["url"])
    assert response.headers["X-Stream-State"] == "stopped"
    assert (await node.http.get("/v1/stream/c", headers=MINE)).content == (await posting).content


async def test_nothing_of_a_link_can_be_changed(node: NodeHarness) -> None:
    await answered(node)
    await answered(node, "other")
    other = await made(node, "other")
    told = await made(node)
    url = told["url"]
    allows, expires, tenant, signature = dict(parse_qsl(urlsplit(url).query))["link"].split(".")
    assert_refused(await node.http.delete(url))
    assert_refused(await node.http.delete(changed(url, keep="true")))
    assert_refused(await node.http.get(changed(url, conv_id="other")))
    assert_refused(await node.http.get(changed(url, epoch=str(told["epoch"] + 1))))
    assert_refused(await node.http.get(changed(url, epoch=None)))
    assert_refused(await node.http.get(changed(url, conv_id="other", epoch=str(other["epoch"]))))
    assert_refused(await node.http.get(url + "&epoch=" + str(told["epoch"])))
    assert_refused(await node.http.get(url + "&" + url.partition("&")[2]))
    for token in (
        f"{allows}.{int(expires) + 1}.{tenant}.{signature}",
        f"stop.{expires}.{tenant}.{signature}",
        f"{allows}.{expires}.ZGVmYXVsdA.{signature}",
        f"{allows}.{expires}.{tenant}.{signature[:-2]}AA",
        f"{allows}.{expires}.{tenant}.",
        f"{allows}.{expires}.{tenant}",
        f"admin.{expires}.{tenant}.{signature}",
        f"{allows}.-1.{tenant}.{signature}",
        f"{allows}.{expires}.%ff.{signature}",
        f"{allows}.{expires}.é.é",
        "",
    ):
        assert_refused(await node.http.get(changed(url, link=token)))
        assert_refused(await node.http.get(changed(url, link=token), headers=MINE))
    query = urlsplit(url).query
    for path in ("/v1/models", "/v1/streams/lookup", "/v1/streams/links", "/v1/streamx"):
        for method in ("GET", "POST"):
            assert (await node.http.request(method, f"{path}?{query}")).status_code == 401


async def test_a_link_is_refused_alike_whether_its_session_is_there_or_not(
    node: NodeHarness,
) -> None:
    await answered(node)
    url = (await made(node))["url"]
    bad = changed(url, epoch="1")
    answers = [await node.http.get(one) for one in (bad, changed(bad, conv_id="never"))]
    assert answers[0].content == answers[1].content


async def test_a_link_ends_with_its_session_and_never_means_the_next(node: NodeHarness) -> None:
    first = await answered(node)
    url = (await made(node))["url"]
    second = await answered(node)
    assert first != second
    assert (await node.http.get(url)).content == first
    assert (await node.http.delete("/v1/stream/c", headers=MINE)).status_code == 204
    assert (await node.http.get(url)).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "conversation_id"),
        ({"conversation_id": 1}, "conversation_id"),
        ({"conversation_id": "c", "allow": "generate"}, "allow"),
        ({"conversation_id": "c", "allow": "admin"}, "allow"),
        ({"conversation_id": "c", "expires_in_s": 0}, "expires_in_s"),
        ({"conversation_id": "c", "expires_in_s": 86_401}, "expires_in_s"),
        ({"conversation_id": "c", "epoch": "1"}, "epoch"),
        ({"conversation_id": "c", "epoch": True}, "epoch"),
    ],
)
async def test_a_bad_wish_names_its_field(
    node: NodeHarness, body: dict[str, Any], field: str
) -> None:
    response = await node.http.post("/v1/streams/links", json=body, headers=MINE)
    assert response.status_code == 400
    assert field in error_of(response)["message"]


async def test_only_ones_own_sessions_are_linked_to(node: NodeHarness) -> None:
    await answered(node)
    for name, key in (("c", "two"), ("never", "two"), ("never", "one")):
        headers = {"Authorization": f"Bearer {key}"}
        response = await node.http.post(
            "/v1/streams/links", json={"conversation_id": name}, headers=headers
        )
        assert response.status_code == 404


async def test_a_link_allows_no_more_than_the_key_of_its_maker(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("one scopes=generate,read\n")
    async with memory_node(api_keys_file=file, link_secrets=NEW) as node:
        await answered(node)
        await made(node)
        asked = {"conversation_id": "c", "allow": "stop"}
        response = await node.http.post("/v1/streams/links", json=asked, headers=MINE)
        assert (response.status_code, error_of(response)["scope"]) == (403, "stop")


async def test_without_a_secret_there_are_no_links() -> None:
    async with memory_node() as node:
        await answered(node)
        response = await node.http.post("/v1/streams/links", json={"conversation_id": "c"})
        assert (response.status_code, error_of(response)["code"]) == (501, 501)
        url = "/v1/stream?conv_id=c&link=read.9999999999.ZGVmYXVsdA.x"
        assert_refused(await node.http.get(url))


def asked(url_query: dict[str, str], method: str = "GET") -> AsgiScope:
    """A request's scope."""
    return {
        "type": "http",
        "method": method,
        "path": "/v1/stream",
        "raw_path": b"/v1/stream",
        "headers": [],
        "query_string": urlencode(url_query).encode(),
    }


def test_a_link_expires_and_outlives_a_change_of_secrets() -> None:
    now_s = 1000.0
    link = Link("t", "c", 7, Scope.READ, 1010)
    old = asked(Signer([OLD], lambda: now_s).query(link))
    both = Signer([NEW, OLD], lambda: now_s)
    opened = Access("t", frozenset({Scope.READ}))
    assert both.access(old) == both.access(asked(both.query(link))) == opened
    assert both.query(link) == Signer([NEW]).query(link) != Signer([OLD]).query(link)
    with pytest.raises(LinkInvalid, match="not valid"):
        Signer([NEW], lambda: now_s).access(old)
    now_s = 1009.9
    assert both.access(old) == opened
    now_s = 1010.0
    with pytest.raises(LinkInvalid, match="expired"):
        both.access(old)


def test_a_secret_that_can_be_guessed_is_none() -> None:
    with pytest.raises(ValueError, match="16 characters"):
        Signer([NEW, "short"])
