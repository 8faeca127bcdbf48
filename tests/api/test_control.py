"""Orders to live completions, at one node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node_harness import NodeHarness, Producer, error_of, memory_node

from replay.request import GenerationRequest

pytestmark = pytest.mark.anyio

CONTROL = "/v1/chat/completions/control"
GONE = {"success": False, "message": "no active completion for this id"}
DISABLED = {"success": False, "message": "reasoning control not enabled for this completion"}


async def ordered(node: NodeHarness, **body: Any) -> Any:
    return await node.http.post(CONTROL, json={"action": "reasoning_end", **body})


async def live(node: NodeHarness, **body: Any) -> tuple[Producer, asyncio.Task[Any]]:
    """A session that is being generated, and the POST that waits for it."""
    posting = asyncio.create_task(node.post(name="c", **body))
    producer = await node.producer()
    await producer.say("one")
    return producer, posting


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "missing completion id"),
        ({"id": "", "action": "dance"}, "missing completion id"),
        ({"id": "x", "action": "dance"}, "unknown control action"),
        ({"id": "x", "action": None}, "unknown control action"),
    ],
)
async def test_an_order_names_a_completion_and_an_action(
    node: NodeHarness, body: dict[str, Any], message: str
) -> None:
    response = await ordered(node, **body)
    assert (response.status_code, error_of(response)["message"]) == (400, message)


async def test_a_live_completion_takes_the_order_and_an_ended_one_does_not(
    node: NodeHarness,
) -> None:
    producer, posting = await live(node, reasoning_control=True)
    told = [(await ordered(node, id=producer.completion_id)).json() for _ in range(2)]
    assert told == 2 * [{"success": True}]
    record = await node.log.record(producer.claim.ref)
    assert record is not None and record.reasoning_end == 1
    await producer.complete()
    await posting
    assert (await ordered(node, id=producer.completion_id)).json() == GONE
    assert (await ordered(node, id="chatcmpl-nobody")).json() == GONE


async def test_what_no_completion_can_be_called_is_not_looked_for(
    node: NodeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def completion(completion_id: str) -> None:
        raise AssertionError("it was looked for")

    monkeypatch.setattr(node.log, "completion", completion)
    assert (await ordered(node, id="x" * 5000)).json() == GONE


async def test_without_the_opt_in_nothing_is_ordered(node: NodeHarness) -> None:
    producer, posting = await live(node)
    assert (await ordered(node, id=producer.completion_id)).json() == DISABLED
    await producer.complete()
    await posting


@pytest.mark.parametrize(("asked", "found"), [({}, 7), ({"reasoning_budget_tokens": 0}, 0)])
async def test_the_operators_budget_is_for_who_names_none(
    asked: dict[str, Any], found: int
) -> None:
    async with memory_node(reasoning_budget_tokens=7) as node:
        producer, posting = await live(node, **asked)
        record = await node.log.record(producer.claim.ref)
        assert record is not None
        request = GenerationRequest.from_json(record.request)
        assert request.reasoning.budget_tokens == found
        await producer.complete()
        await posting


async def test_another_tenants_completion_is_as_unknown_as_any() -> None:
    async with memory_node(api_keys="a,b") as node:
        node.http.headers["Authorization"] = "Bearer a"
        producer, posting = await live(node, reasoning_control=True)
        node.http.headers["Authorization"] = "Bearer b"
        assert (await ordered(node, id=producer.completion_id)).json() == GONE
        record = await node.log.record(producer.claim.ref)
        assert record is not None and record.reasoning_end == 0
        await producer.complete()
        await posting
