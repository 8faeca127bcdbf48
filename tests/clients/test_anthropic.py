"""The official ``anthropic`` SDK, unmodified, against a whole cluster of real processes.

The engine is the scripted one: what is tested is what the SDK parses, not what a model says.
"""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import httpx
import pytest
from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam
from sdk_cluster import KEY, SETTINGS

from deploy.local.cluster import Cluster
from tests.protocol.wire import Node, until

pytestmark = pytest.mark.system


def said(words: str) -> list[MessageParam]:
    """A conversation of one message."""
    return [{"role": "user", "content": words}]


SHORT = said("[[tokens=40 rate=0 seed=3]]")
SLOW = said("[[tokens=4000 rate=50]]")


@pytest.fixture
def client(nodes: list[str]) -> Iterator[anthropic.Anthropic]:
    """The SDK on the first node; it repeats nothing, so that nothing is hidden."""
    with anthropic.Anthropic(base_url=nodes[0], api_key=KEY, max_retries=0) as made:
        yield made


def read(node: str, name: str) -> httpx.Response:
    """What a node replays."""
    headers = {"X-Api-Key": KEY}
    return httpx.get(f"{node}/v1/stream", params={"conv_id": name}, headers=headers)


def test_a_message_is_parsed_whole(client: anthropic.Anthropic, model: str) -> None:
    message = client.messages.create(model=model, messages=SHORT, max_tokens=64)
    [block] = message.content
    assert block.type == "text" and block.text
    assert (message.role, message.type, message.model) == ("assistant", "message", model)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens == 40 and message.usage.input_tokens >= 0
    assert message.id.startswith("msg_")
    assert message._request_id is not None and message._request_id.startswith("req_")


def test_a_raw_stream_is_the_same_message_in_pieces(
    client: anthropic.Anthropic, model: str
) -> None:
    whole = client.messages.create(model=model, messages=SHORT, max_tokens=64)
    text = ""
    for event in client.messages.create(model=model, messages=SHORT, max_tokens=64, stream=True):
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            text += event.delta.text
    assert [block.text for block in whole.content if block.type == "text"] == [text]


def test_the_sdks_own_accumulation_is_the_message(client: anthropic.Anthropic, model: str) -> None:
    whole = client.messages.create(model=model, messages=SHORT, max_tokens=64)
    with client.messages.stream(model=model, messages=SHORT, max_tokens=64) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert [block.text for block in whole.content if block.type == "text"] == [text]
    assert [block.text for block in final.content if block.type == "text"] == [text]
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_why_a_message_ends(client: anthropic.Anthropic, model: str) -> None:
    whole = client.messages.create(model=model, messages=SHORT, max_tokens=64)
    cut = client.messages.create(model=model, messages=SHORT, max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    [block] = whole.content
    assert block.type == "text"
    word = block.text.split()[1]
    with client.messages.stream(
        model=model, messages=SHORT, max_tokens=64, stop_sequences=[word]
    ) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", word)


def test_tokens_are_counted(client: anthropic.Anthropic, model: str) -> None:
    counted = client.messages.count_tokens(model=model, messages=SHORT, system="Be brief.")
    usage = client.messages.create(
        model=model, messages=SHORT, system="Be brief.", max_tokens=1
    ).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_conversation_of_blocks_is_understood(client: anthropic.Anthropic, model: str) -> None:
    first = client.messages.create(model=model, messages=SHORT, max_tokens=64)
    message = client.messages.create(
        model=model,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[*SHORT, {"role": "assistant", "content": first.content}, *SHORT],
        max_tokens=8,
        metadata={"user_id": "me"},
        extra_body={"temperature": 0.5, "top_k": 5, "top_p": 0.9},
    )
    assert message.stop_reason == "max_tokens"


def test_a_stream_that_the_sdk_read_can_be_replayed_elsewhere(
    client: anthropic.Anthropic, model: str, nodes: list[str]
) -> None:
    with client.messages.with_streaming_response.create(
        model=model,
        messages=SHORT,
        max_tokens=64,
        stream=True,
        extra_headers={"X-Conversation-Id": "anthropic-sdk"},
    ) as response:
        body = b"".join(response.iter_bytes())
    assert read(nodes[1], "anthropic-sdk").content == body


def test_a_stop_elsewhere_ends_the_sdks_stream(
    client: anthropic.Anthropic, model: str, nodes: list[str]
) -> None:
    stream = client.messages.create(
        model=model,
        messages=SLOW,
        max_tokens=4000,
        stream=True,
        extra_headers={"X-Conversation-Id": "to-stop"},
    )
    for _ in range(4):
        next(stream)
    with Node(nodes[1], KEY).http as http:
        assert http.delete("/v1/stream", params={"conv_id": "to-stop"}).status_code == 204
    assert len(list(stream)) < 1000


def test_mistakes_are_the_sdks_own_errors(client: anthropic.Anthropic, model: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature") as refused:
        client.messages.create(
            model=model, messages=SHORT, max_tokens=8, extra_body={"temperature": "hot"}
        )
    assert refused.value.type == "invalid_request_error"
    assert refused.value.request_id is not None
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["request_id"] == refused.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="not found"):
        client.messages.create(model="other", messages=SHORT, max_tokens=8)
    with pytest.raises(anthropic.BadRequestError, match="8192"):
        client.messages.create(model=model, messages=said("x" * 9000), max_tokens=8)


def test_a_busy_conversation_is_a_conflict(client: anthropic.Anthropic, model: str) -> None:
    name = {"X-Conversation-Id": "anthropic-busy"}
    with client.messages.create(
        model=model, messages=SLOW, max_tokens=4000, stream=True, extra_headers=name
    ) as stream:
        next(stream)
        with pytest.raises(anthropic.ConflictError):
            client.messages.create(
                model=model,
                messages=SHORT,
                max_tokens=8,
                extra_headers=name,
                extra_query={"if_busy": "reject"},
            )
        client.messages.create(model=model, messages=SHORT, max_tokens=1, extra_headers=name)


def test_one_key_for_two_requests_cannot_be_processed(
    client: anthropic.Anthropic, model: str
) -> None:
    key = {"Idempotency-Key": "anthropic-intent"}
    first = client.messages.create(model=model, messages=SHORT, max_tokens=8, extra_headers=key)
    again = client.messages.create(model=model, messages=SHORT, max_tokens=8, extra_headers=key)
    assert again == first
    with pytest.raises(anthropic.UnprocessableEntityError):
        client.messages.create(model=model, messages=SHORT, max_tokens=9, extra_headers=key)


def test_a_wrong_key_is_an_authentication_error(nodes: list[str], model: str) -> None:
    with (
        anthropic.Anthropic(base_url=nodes[1], api_key="other", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        stranger.messages.create(model=model, messages=SHORT, max_tokens=8)
    assert refused.value.type == "authentication_error" and refused.value.request_id


def test_what_is_not_there_is_a_not_found_error(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.batches.retrieve("batch")
    assert missing.value.type == "not_found_error"


def test_a_failure_before_the_first_token_is_a_server_error(
    client: anthropic.Anthropic, model: str
) -> None:
    with pytest.raises(anthropic.InternalServerError, match="token 0") as failed:
        client.messages.create(model=model, messages=said("[[fail_at=0]]"), max_tokens=8)
    assert failed.value.type == "api_error"


def test_a_failure_in_the_middle_is_raised_after_what_was_said(
    client: anthropic.Anthropic, model: str
) -> None:
    seen = 0
    with pytest.raises(anthropic.APIStatusError, match="token 20") as failed:
        for _ in client.messages.create(
            model=model, messages=said("[[fail_at=20 rate=0]]"), max_tokens=64, stream=True
        ):
            seen += 1
    assert seen > 2 and failed.value.type == "api_error"


@pytest.mark.anyio
async def test_the_asynchronous_sdk_reads_a_stream(nodes: list[str], model: str) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=nodes[1], api_key=KEY) as client,
        client.messages.stream(model=model, messages=SHORT, max_tokens=64) as stream,
    ):
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert text and final.stop_reason == "end_turn"


ADD: ToolParam = {
    "name": "add",
    "description": "Adds.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
CALL = said('[[say]]{"tool_calls": [{"name": "add", "arguments": {"a": 2}}]}[[/say]]')
THOUGHT = said("[[say]]<think>Hm.</think>Four.[[/say]]")


def test_a_tool_is_used_and_its_result_is_taken(client: anthropic.Anthropic, model: str) -> None:
    with client.messages.stream(
        model=model, messages=CALL, tools=[ADD], max_tokens=99, tool_choice={"type": "auto"}
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    [block] = message.content
    assert block.type == "tool_use" and message.stop_reason == "tool_use"
    assert (block.name, block.input) == ("add", {"a": 2}) and "".join(pieces) == '{"a": 2}'
    result: ToolResultBlockParam = {
        "type": "tool_result",
        "tool_use_id": block.id,
        "content": [{"type": "text", "text": "4"}],
    }
    answer = client.messages.create(
        model=model,
        messages=[*CALL, message.to_param(), {"role": "user", "content": [result]}],
        tools=[ADD],
        max_tokens=8,
    )
    assert answer.stop_reason == "max_tokens"


def test_a_thought_is_a_block_of_its_own(client: anthropic.Anthropic, model: str) -> None:
    with client.messages.stream(
        model=model,
        messages=THOUGHT,
        max_tokens=4000,
        thinking={"type": "enabled", "budget_tokens": 1024},
    ) as stream:
        thoughts = [event.thinking for event in stream if event.type == "thinking"]
        message = stream.get_final_message()
    first, second = message.content
    assert first.type == "thinking" and second.type == "text"
    assert (first.thinking, second.text) == ("Hm.", "Four.") and "".join(thoughts) == "Hm."
    answer = client.messages.create(
        model=model, messages=[*THOUGHT, message.to_param(), *SHORT], max_tokens=8
    )
    assert answer.stop_reason == "max_tokens"


def test_a_budget_ends_a_thought(client: anthropic.Anthropic, model: str) -> None:
    long = said("[[say]]<think>" + 200 * "so " + "</think>Four.[[/say]]")
    message = client.messages.create(
        model=model,
        messages=long,
        max_tokens=100,
        thinking={"type": "enabled", "budget_tokens": 20},
    )
    assert [block.type for block in message.content] == ["thinking", "text"]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a node that allows little, and has a key that may only read."""
    folder = tmp_path_factory.mktemp("strict")
    keys = folder / "keys"
    keys.write_text("reader tenant=reader scopes=read\n")
    settings = {
        **SETTINGS,
        "REPLAY_API_KEYS_FILE": str(keys),
        "REPLAY_BODY_BYTES_MAX": "2000",
        "REPLAY_TENANT_LIVE_MAX": "1",
    }
    with Cluster(folder, "--engine", "scripted", "--api-nodes", "1", environment=settings) as one:
        [url] = one.nodes
        node = Node(url, KEY)
        with node.http:
            until(node.is_sure)
        yield url


def test_what_is_too_much_is_an_error_of_its_own(strict: str, model: str) -> None:
    with anthropic.Anthropic(base_url=strict, api_key=KEY, max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError) as large:
            client.messages.create(model=model, messages=said("x" * 3000), max_tokens=8)
        assert (large.value.status_code, large.value.type) == (413, "request_too_large")
        with client.messages.create(
            model=model, messages=SLOW, max_tokens=4000, stream=True
        ) as stream:
            next(stream)
            with pytest.raises(anthropic.RateLimitError) as limited:
                client.messages.create(model=model, messages=SHORT, max_tokens=8)
        assert limited.value.type == "rate_limit_error"
        assert limited.value.response.headers["retry-after"]


def test_a_key_that_may_not_generate_is_denied(strict: str, model: str) -> None:
    with (
        anthropic.Anthropic(base_url=strict, api_key="reader", max_retries=0) as reader,
        pytest.raises(anthropic.PermissionDeniedError) as denied,
    ):
        reader.messages.create(model=model, messages=SHORT, max_tokens=8)
    assert denied.value.type == "permission_error" and denied.value.request_id
