"""Whatever a client calls its conversation: kept verbatim, found in every form, on any node."""

from __future__ import annotations

import secrets

import httpx
import pytest
from cluster_client import CHAT, Client, error_of, stream_addresses

pytestmark = pytest.mark.anyio

IDS = {
    "a model's name": "{}::org/model:Q4",
    "several parts": "{}::a::b::c",
    "slashes": "/{}//a/b/c/",
    "percent": "{}%2F100%25%",
    "braces": "{{}}{{{}}}{{default:x}}",
    "spaces": "{} two  words",
    "a query": "{}?a=b&conv_id=c#d+e",
    "emoji": "{}🚲👩‍🚀",
    "combining": "{}e\u0301ü語",
    "quotes": "{}\"'\\`$(x)",
    "one kibibyte": "{}" + "x" * 1008,
    "one kibibyte of UTF-8": "{}" + "é" * 504,
}


@pytest.mark.parametrize("kind", IDS)
async def test_any_id_is_kept_and_found_in_every_form(scripted: Client, kind: str) -> None:
    name = IDS[kind].format(secrets.token_hex(8))
    posted = await scripted.post(name, "[[tokens=3 rate=0]]", stream=True)
    log = posted.content
    assert log.endswith(b"data: [DONE]\n\n")
    for number, address in enumerate(stream_addresses(name)):
        node = scripted.nodes[number % 2]
        found = await node.get(address)
        assert (found.status_code, found.content) == (200, log), address
        rest = await node.get(address, params={**dict(found.url.params), "from": "10"})
        assert (rest.status_code, rest.content) == (200, log[10:]), address
    assert [one["conversation_id"] for one in await scripted.lookup(name, node=1)] == [name]
    for number, address in enumerate(stream_addresses(name)):
        again = await scripted.post(name, "[[tokens=3 rate=0]]", stream=True)
        stopped = await scripted.nodes[number % 2].delete(address)
        epoch = again.headers["x-stream-epoch"]
        assert (stopped.status_code, stopped.headers["x-stream-epoch"]) == (204, epoch), address
        assert (await scripted.read(name, node=1)).status_code == 404


async def test_an_id_with_its_model_is_the_conversation_less_the_model(
    scripted: Client, name: str
) -> None:
    [model] = (await scripted.nodes[0].get("/v1/models")).json()["data"]
    full = f"{name}::{model['id']}"
    log = (await scripted.post(full, "[[tokens=3 rate=0]]", stream=True, model=model["id"])).content
    assert await scripted.log(full, node=1) == log
    assert await scripted.log(name, node=1) == log
    assert [one["conversation_id"] for one in await scripted.lookup(name)] == [full]


async def test_ids_that_look_alike_are_apart(scripted: Client, name: str) -> None:
    alike = [name, f"{name}%20", f"{name} x", f"{name}+x", f"{name}%20x", f"{name}/", f"{{{name}}}"]
    logs = {}
    for one in alike:
        logs[one] = (await scripted.post(one, f"[[tokens=3 rate=0]] {one}", stream=True)).content
    assert len(set(logs.values())) == len(alike)
    for one in alike:
        assert await scripted.log(one, node=1) == logs[one]


@pytest.mark.parametrize("value", [b"x" * 1025, b"\xff\xfe", b"a\xc2\x85b", "é".encode() * 513])
async def test_an_id_that_nobody_may_have_is_refused(scripted: Client, value: bytes) -> None:
    answer = await posted_as(scripted, value)
    assert answer.status_code == 400
    assert "X-Conversation-Id" in error_of(answer)["message"]


@pytest.mark.parametrize("value", [b"a\x01b", b"a\x7fb"])
async def test_a_control_character_does_not_pass_the_parser(scripted: Client, value: bytes) -> None:
    assert (await posted_as(scripted, value)).status_code == 400


async def posted_as(client: Client, name: bytes) -> httpx.Response:
    """The answer to a POST with these bytes in its header."""
    body = {"messages": [{"role": "user", "content": "[[tokens=1]]"}]}
    return await client.nodes[0].post(CHAT, headers={b"X-Conversation-Id": name}, json=body)
