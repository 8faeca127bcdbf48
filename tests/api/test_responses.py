"""Responses that are retained: what an order to one of them does to the others."""

from __future__ import annotations

import asyncio

import pytest
from node_harness import NodeHarness, error_of

from replay import frames
from replay.records import Reason, State

pytestmark = pytest.mark.anyio


async def answered(node: NodeHarness, name: str) -> str:
    """The id of a response that has ended under this name."""
    posting = asyncio.create_task(
        node.http.post("/v1/responses", json={"input": "x"}, headers={"X-Conversation-Id": name})
    )
    producer = await node.producer()
    response = {"id": producer.completion_id, "status": "completed", "output": []}
    event = {"type": "response.completed", "response": response, "sequence_number": 0}
    last = frames.event("response.completed", event)
    await producer.put(last, state=State.COMPLETED, reason=Reason.STOP)
    assert (await posting).status_code == 200
    return producer.completion_id


async def test_an_order_to_a_response_means_no_later_one_of_its_name(node: NodeHarness) -> None:
    before, after = await answered(node, "c"), await answered(node, "c")
    cancelled = await node.http.post(f"/v1/responses/{before}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "completed")
    refused = await node.http.delete(f"/v1/responses/{before}")
    assert refused.status_code == 409 and "current_epoch" in error_of(refused)
    for one in (before, after):
        assert (await node.http.get(f"/v1/responses/{one}")).status_code == 200


@pytest.mark.clause("RESP-2")
async def test_what_a_stop_has_cut_is_incomplete(node: NodeHarness) -> None:
    body = {"input": "x", "background": True}
    posting = asyncio.create_task(node.http.post("/v1/responses", json=body))
    producer = await node.producer()
    one, two = ({"type": "message", "id": f"msg_{n}", "content": []} for n in (1, 2))
    for index, item in enumerate(
        [{**one, "status": "completed"}, {**two, "status": "in_progress"}]
    ):
        event = {"type": "response.output_item.done", "output_index": index, "item": item}
        await producer.put(frames.event(event["type"], {**event, "sequence_number": index}))
    path = f"/v1/responses/{(await posting).json()['id']}"
    running = (await node.http.get(path)).json()["output"]
    assert [item["status"] for item in running] == ["completed", "in_progress"]
    stopped = (await node.http.post(f"{path}/cancel")).json()
    assert stopped["status"] == "cancelled"
    assert [item["status"] for item in stopped["output"]] == ["completed", "incomplete"]
