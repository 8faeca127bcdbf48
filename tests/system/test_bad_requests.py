"""A request that is wrong is a 4xx that says what, and the conversation's session is untouched."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_client import CHAT, Client, error_of, named

pytestmark = pytest.mark.anyio

HELLO = [{"role": "user", "content": "Hello"}]
CONTEXT_TOKENS = 8192

BAD: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "no JSON": (b"{", "body"),
    "no object": (b"[]", "object"),
    "no UTF-8": (b'{"messages":"\xff"}', "UTF-8"),
    "no messages": ({}, "messages"),
    "messages of the wrong type": ({"messages": "hi"}, "messages"),
    "a message without a role": ({"messages": [{"content": "hi"}]}, "role"),
    "a message without content": ({"messages": [{"role": "user"}]}, "content"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "image",
    ),
    "a negative length": ({"messages": HELLO, "max_tokens": -2}, "max_tokens"),
    "a length of the wrong type": ({"messages": HELLO, "max_tokens": "many"}, "max_tokens"),
    "a temperature of the wrong type": ({"messages": HELLO, "temperature": "hot"}, "temperature"),
    "too many choices": ({"messages": HELLO, "n": 33}, "'n'"),
    "tools": ({"messages": HELLO, "tools": [{}]}, "tools"),
    "another model": ({"messages": HELLO, "model": "other"}, "other"),
    "a stream of the wrong type": ({"messages": HELLO, "stream": "yes"}, "stream"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_request_touches_nothing(scripted: Client, kind: str) -> None:
    body, word = BAD[kind]
    log, found = await answered(scripted, "untouched")
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = await scripted.nodes[1].post(CHAT, headers=named("untouched"), **content)
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["type"] == "invalid_request_error"
    assert word in error["message"]
    await untouched(scripted, "untouched", log, found)


async def answered(client: Client, name: str) -> tuple[bytes, dict[str, Any]]:
    """A finished session: its log, and what lookup tells of it."""
    if not await client.lookup(name):
        await client.post(name, "Hello [[tokens=5 rate=0]]", max_tokens=5)
    [found] = await client.lookup(name)
    return await client.log(name), found


async def untouched(client: Client, name: str, log: bytes, found: dict[str, Any]) -> None:
    """The session is still what it was."""
    assert await client.lookup(name, node=1) == [found]
    assert await client.log(name, node=1) == log


@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(
    real: Client, name: str, stream: bool
) -> None:
    log, found = await answered(real, name)
    answer = await real.post(name, "sea " * (CONTEXT_TOKENS + 10), node=1, stream=stream)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("application/json")
    assert "x-stream-epoch" not in answer.headers
    error = error_of(answer)
    assert error["type"] == "exceed_context_size_error"
    assert error["n_ctx"] == CONTEXT_TOKENS
    assert CONTEXT_TOKENS <= error["n_prompt_tokens"] < CONTEXT_TOKENS + 100
    assert str(error["n_prompt_tokens"]) in error["message"]
    await untouched(real, name, log, found)


async def test_a_bad_request_leaves_a_live_answer_alone(real: Client, name: str) -> None:
    async with real.posting(name, "Tell me about the sea.", max_tokens=60, ignore_eos=True) as post:
        await post.has(1)
        for bad in ({"max_tokens": -2}, {"model": "other"}, {"tools": [{}]}):
            assert (await real.post(name, "Hello", node=1, **bad)).status_code == 400
        overflow = await real.post(name, "sea " * (CONTEXT_TOKENS + 10), node=1)
        assert overflow.status_code == 400
        log = await post.whole()
    assert log.endswith(b"data: [DONE]\n\n")
    assert await real.log(name, node=1) == log


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/nothing"),
        ("GET", CHAT),
        ("PUT", "/v1/stream/x"),
        ("GET", "/v1/streams/lookup"),
        ("POST", "/v1/stream"),
    ],
)
async def test_what_is_not_there_is_404_in_the_same_envelope(
    scripted: Client, method: str, path: str
) -> None:
    answer = await scripted.nodes[1].request(method, path)
    assert answer.status_code == 404
    assert error_of(answer)["type"] == "not_found_error"
