"""The only worker is killed in the middle of an answer: the next one goes on with it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cluster_client import Client, events

pytestmark = pytest.mark.anyio

TAKEOVER_LIMIT_S = 60.0
"""A lease and a half (6 s), a sweep, 2 s for the disk, and a worker that loads its model: 9 s on a
machine that is not busy with other tests."""

STOP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "at": {
            "type": "object",
            "properties": {axis: {"type": "integer", "minimum": 0} for axis in "xy"},
            "required": ["x", "y"],
        },
    },
    "required": ["name", "at"],
}
JOURNEY = {
    "type": "object",
    "properties": {"stops": {"type": "array", "items": STOP, "minItems": 3, "maxItems": 3}},
    "required": ["stops"],
}


def text_of(log: bytes) -> str:
    """What the log's frames say."""
    choices = [choice for event in events(log) for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.guarantee("T3")
@pytest.mark.parametrize("kept", [1, 2000, 8000])
async def test_an_answer_whose_worker_died_equals_an_uninterrupted_one(
    real: Client, name: str, kept: int
) -> None:
    asked = {"max_tokens": 60, "ignore_eos": True, "temperature": 0}
    words = "Tell me about the sea."
    whole = (await real.post(f"{name}-whole", words, **asked)).json()
    async with real.posting(name, words, **asked) as post:
        await post.has(kept)
        async with real.reading(name, node=1) as reader:
            await reader.has(1)
            killed = real.kill("worker-1")
            killed_s = time.monotonic()
            log = await post.whole()
            assert time.monotonic() - killed_s < TAKEOVER_LIMIT_S
            assert await reader.whole() == log
    assert log.endswith(b"data: [DONE]\n\n")
    assert text_of(log) == whole["choices"][0]["message"]["content"]
    [found] = await real.lookup(name, node=1)
    assert (found["state"], found["reason"]) == ("completed", "length")
    assert await real.log(name, node=1) == log
    await real.gone(killed)
    real.cluster.wait_ready()
    await real.idle()


@pytest.mark.guarantee("T4")
@pytest.mark.clause("FORM-4")
async def test_json_under_a_schema_is_whole_and_the_same_though_its_worker_died(
    real: Client, name: str
) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "journey", "schema": JOURNEY}}
    asked = {"response_format": schema, "temperature": 0}
    words = "Describe a journey by the sea with three stops as JSON."
    whole = (await real.post(f"{name}-whole", words, **asked)).json()
    async with real.posting(name, words, **asked) as post:
        assert b"[DONE]" not in await post.has(4000)
        killed = real.kill("worker-1")
        log = await post.whole()
    text = text_of(log)
    assert text == whole["choices"][0]["message"]["content"]
    stops = json.loads(text)["stops"]
    assert len(stops) == 3
    for stop in stops:
        assert len(stop["name"]) <= 20 and min(stop["at"]["x"], stop["at"]["y"]) >= 0
    [found] = await real.lookup(name, node=1)
    assert (found["state"], found["reason"]) == ("completed", "stop")
    await real.gone(killed)
    real.cluster.wait_ready()
    await real.idle()
