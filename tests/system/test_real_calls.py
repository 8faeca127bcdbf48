"""Calls of tools that a real model makes, one that was never taught any."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cluster_client import Client, events

pytestmark = pytest.mark.anyio

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city", "days", "unit"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
WORDS = "What is the weather in Paris?"


def check(call: dict[str, Any]) -> None:
    """The arguments are such as the tool's schema wants."""
    name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
    if name == "now":
        assert arguments == {}
        return
    assert (name, list(arguments)) == ("weather", ["city", "days", "unit"])
    assert isinstance(arguments["city"], str) and len(arguments["city"]) <= 20
    assert arguments["days"] in range(1, 10) and arguments["unit"] in ("C", "F")


@pytest.mark.clause("CHAT-5")
@pytest.mark.parametrize(("choice", "temperature"), [("required", 1.2), ("weather", 0)])
async def test_a_call_that_must_be_made_is_made_and_valid(
    real: Client, name: str, choice: str, temperature: float
) -> None:
    is_named = choice == "weather"
    named = {"type": "function", "function": {"name": "weather"}}
    answer = await real.post(
        name,
        WORDS,
        tools=[WEATHER, NOW],
        tool_choice=named if is_named else choice,
        temperature=temperature,
        seed=3,
        max_tokens=400,
    )
    [told] = answer.json()["choices"]
    assert told["finish_reason"] == "tool_calls" and told["message"]["content"] == ""
    [call] = told["message"]["tool_calls"]
    check(call)
    assert call["function"]["name"] == "weather" or not is_named


@pytest.mark.clause("CHAT-5")
async def test_a_call_that_may_be_made_leaves_a_text_or_is_valid(real: Client, name: str) -> None:
    answer = await real.post(name, WORDS, tools=[WEATHER], temperature=0, max_tokens=300)
    [told] = answer.json()["choices"]
    for call in told["message"].get("tool_calls", ()):
        check(call)
    assert told["message"]["content"] or told["message"]["tool_calls"]


@pytest.mark.clause("CHAT-4")
async def test_a_call_whose_worker_died_is_whole(real: Client, name: str) -> None:
    asked: dict[str, Any] = {
        "tools": [WEATHER],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 400,
    }
    whole = (await real.post(f"{name}-whole", WORDS, **asked)).json()
    async with real.posting(name, WORDS, **asked) as post:
        await post.has(1)
        killed = real.kill("worker-1")
        log = await post.whole()
    deltas = [one["choices"][0]["delta"] for one in events(log) if one["choices"]]
    told = [one["tool_calls"][0] for one in deltas if "tool_calls" in one]
    [wanted] = whole["choices"][0]["message"]["tool_calls"]
    assert [one["function"]["name"] for one in told if "id" in one] == ["weather"]
    arguments = "".join(one["function"]["arguments"] for one in told)
    assert arguments == wanted["function"]["arguments"]
    await real.gone(killed)
    real.cluster.wait_ready()
    await real.idle()
