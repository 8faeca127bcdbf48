"""The answer so far: at every frame a message, and with what follows it the whole answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from log_harness import compacted
from node_harness import NodeHarness, error_of

from api.merged import DIALECTS
from replay import frames
from replay.identity import Conversation
from replay.request import Dialect
from tests.transcripts import ANSWERS, FOLDS, REQUEST, file_of, folded

pytestmark = pytest.mark.anyio


def texts(value: Any) -> str:
    """All that a message says, in its order."""
    if isinstance(value, dict):
        named = ("content", "text", "reasoning_content", "thinking", "message", "choices")
        return "".join(texts(value[name]) for name in named if name in value)
    if isinstance(value, list):
        return "".join(map(texts, value))
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("dialect", FOLDS)
def test_at_every_frame_it_is_what_was_said(dialect: Dialect, name: str) -> None:
    log = file_of(dialect, name).read_bytes()
    fold, said = DIALECTS[dialect].fold(REQUEST), ""
    for frame in frames.split(log):
        fold.feed(frame + b"\n\n")
        now = texts(fold.so_far())
        if "thought" not in name and name != "calls":
            assert now.startswith(said)
            said = now
    whole = json.dumps(fold.so_far(), ensure_ascii=False, indent=1) + "\n"
    assert fold.error is not None or whole.encode() == folded(dialect, log)


async def merged(node: NodeHarness, more: str = "") -> dict[str, Any]:
    """The merged view."""
    response = await node.http.get(f"/v1/stream?conv_id=c&view=merged{more}")
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    assert response.headers["X-Stream-Offset"] == str(told["offset"])
    assert response.headers["X-Stream-Epoch"] == str(told["epoch"])
    assert response.headers["Cache-Control"] == "no-store"
    return told


def content(told: dict[str, Any]) -> str:
    """What the message says."""
    found: str = told["message"]["choices"][0]["message"]["content"]
    return found


async def test_a_live_answer_is_told_so_far_and_gone_on_with(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    before = await merged(node)
    assert (before["offset"], before["is_done"], before["message"]["choices"]) == (0, False, [])
    await producer.say("one", " two")
    told = await merged(node)
    assert (content(told), told["state"], told["is_done"]) == ("one two", "running", False)
    assert told["offset"] == producer.end
    await producer.say(" three")
    await producer.complete()
    log = (await posting).content
    rest = await node.http.get(f"/v1/stream?conv_id=c&from={told['offset']}")
    assert rest.content == log[told["offset"] :] and b" three" in rest.content
    done = await merged(node, f"&epoch={told['epoch']}")
    assert (content(done), done["offset"], done["is_done"]) == ("one two three", len(log), True)
    assert (done["state"], done["reason"]) == ("completed", "stop")
    await compacted(node.log, Conversation("default", "c"))
    assert await merged(node) == done


async def test_what_broke_is_told_with_what_was_said(node: NodeHarness) -> None:
    posting = asyncio.create_task(node.post(name="c", stream=True))
    producer = await node.producer()
    await producer.say("one")
    await producer.fail("it broke")
    await posting
    told = await merged(node)
    assert (content(told), told["error"]) == ("one", "it broke")
    assert (told["state"], told["reason"], told["is_done"]) == ("failed", "engine", True)


async def test_what_is_not_there_or_unknown_is_refused(node: NodeHarness) -> None:
    assert (await node.http.get("/v1/stream?conv_id=c&view=merged")).status_code == 404
    response = await node.http.get("/v1/stream?conv_id=c&view=all")
    assert "'view'" in error_of(response)["message"]
