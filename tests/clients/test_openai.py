"""The official ``openai`` SDK, unmodified, against a whole cluster of real processes.

The engine is the scripted one: what is tested is what the SDK parses, not what a model says.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

pytestmark = pytest.mark.system

START_LIMIT_S = 60.0
STOP_LIMIT_S = 10.0
MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "Why is the sky blue?"}
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The addresses of two nodes of a running cluster."""
    state = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, "-m", "deploy.local", "--port", "0", "--engine", "scripted"]
    with (
        (state / "launcher.log").open("wb") as log,
        subprocess.Popen([*command, "--state-dir", str(state)], stdout=log, stderr=log) as launcher,
    ):
        try:
            yield _ready(state, launcher)
        finally:
            launcher.send_signal(signal.SIGINT)
            launcher.wait(STOP_LIMIT_S)


def _ready(state: Path, launcher: subprocess.Popen[bytes]) -> list[str]:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until and launcher.poll() is None:
        file = state / "cluster.json"
        cluster = json.loads(file.read_text()) if file.exists() else {}
        if cluster.get("ready"):
            return [node["url"] for node in cluster["nodes"]]
        time.sleep(0.05)  # the launcher's file is all it says
    raise AssertionError((state / "launcher.log").read_text())


@pytest.fixture(scope="module")
def client(nodes: list[str]) -> Iterator[openai.OpenAI]:
    """The SDK on the first node; it repeats nothing, so that nothing is hidden."""
    with openai.OpenAI(base_url=f"{nodes[0]}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    """The only model there is."""
    [only] = client.models.list()
    return only.id


def test_an_answer_is_parsed_whole(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8)
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason) == (0, "length")
    assert choice.message.role == "assistant" and choice.message.content
    assert answer.usage is not None and answer.usage.completion_tokens == 8
    assert answer.id.startswith("chatcmpl-") and answer.model == model


def test_a_stream_is_the_same_answer_in_pieces(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8, seed=1)
    stream = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_tokens=8,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    *pieces, last = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == "length"
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 8
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


def test_a_stream_that_the_sdk_read_can_be_replayed_elsewhere(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    name = {"X-Conversation-Id": f"sdk::{model}"}
    with client.chat.completions.with_streaming_response.create(
        model=model, messages=MESSAGES, max_tokens=8, stream=True, extra_headers=name
    ) as response:
        body = b"".join(response.iter_bytes())
    assert body.endswith(b"data: [DONE]\n\n")
    for offset in (0, 1, len(body) // 2, len(body)):
        asked = {"conv_id": "sdk", "from": offset}
        replayed = httpx.get(f"{nodes[1]}/v1/stream", params=asked)
        assert (replayed.status_code, replayed.content) == (200, body[offset:])


def test_mistakes_are_the_sdks_own_errors(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=-5)
    with pytest.raises(openai.BadRequestError, match="not found"):
        client.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="'tools': not supported yet"):
        client.chat.completions.create(
            model=model,
            messages=MESSAGES,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )


def test_a_stop_elsewhere_ends_the_sdks_stream(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_tokens=4000,
        stream=True,
        extra_headers={"X-Conversation-Id": "to-stop"},
    )
    seen = 0
    for _ in stream:
        seen += 1
        if seen == 3:
            stopped = httpx.delete(f"{nodes[1]}/v1/stream", params={"conv_id": "to-stop"})
            assert stopped.status_code == 204
    assert 3 <= seen < 4000
    assert httpx.get(f"{nodes[0]}/v1/stream?conv_id=to-stop").status_code == 404
