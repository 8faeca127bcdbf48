"""The official ``openai`` SDK, unmodified, against a whole cluster of real processes.

The engine is the scripted one: what is tested is what the SDK parses, not what a model says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageParam
from sdk_cluster import KEY

from deploy.local.cluster import Cluster

pytestmark = pytest.mark.system

AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}


def said(words: str) -> list[ChatCompletionMessageParam]:
    """A conversation of one message."""
    return [{"role": "user", "content": words}]


MESSAGES = said("Why is the sky blue?")
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CALL = said('[[say]]{"tool_calls": [{"name": "add", "arguments": {"a": 2}}]}[[/say]]')
SLOW = said("[[tokens=4000 rate=50]]")


@pytest.fixture
def client(nodes: list[str]) -> Iterator[openai.OpenAI]:
    """The SDK on the first node; it repeats nothing, so that nothing is hidden."""
    with openai.OpenAI(base_url=f"{nodes[0]}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def read(node: str, name: str, offset: int = 0) -> httpx.Response:
    """What a node replays."""
    asked: dict[str, str | int] = {"conv_id": name, "from": offset}
    return httpx.get(f"{node}/v1/stream", params=asked, headers=AUTHORIZATION)


def test_an_answer_is_parsed_whole(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8)
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason) == (0, "length")
    assert choice.message.role == "assistant" and choice.message.content
    assert answer.usage is not None and answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.id.startswith("chatcmpl-") and answer.model == model
    assert answer.object == "chat.completion"


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


def test_without_being_asked_a_stream_has_no_usage(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=3, stream=True
    )
    assert [chunk.usage for chunk in stream if chunk.usage or not chunk.choices] == []


def test_the_sdk_reads_logprobs(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=8, logprobs=True, top_logprobs=1
    )
    told = answer.choices[0].logprobs
    assert told is not None and told.content
    shown = b"".join(bytes(one.bytes or ()) for one in told.content)
    assert shown.decode("utf-8", "replace") == answer.choices[0].message.content
    assert all(one.logprob <= 0 and len(one.top_logprobs) == 1 for one in told.content)


class Place(pydantic.BaseModel):
    """What the SDK makes a strict schema of."""

    name: str
    kind: Literal["sea", "hill"]
    near: list[Place]


def test_an_answer_is_parsed_into_the_model_that_its_schema_came_from(
    client: openai.OpenAI, model: str
) -> None:
    said_place = '{"name": "Etna", "kind": "hill", "near": []}'
    answer = client.chat.completions.parse(
        model=model, messages=said(f"[[say]]{said_place}[[/say]]"), response_format=Place
    )
    assert answer.choices[0].message.parsed == Place(name="Etna", kind="hill", near=[])


def test_a_schema_that_cannot_be_kept_is_the_sdks_own_error(
    client: openai.OpenAI, model: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=r"json_schema.*not is not supported"):
        client.chat.completions.create(
            model=model,
            messages=MESSAGES,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "strict": True, "schema": {"not": {"type": "null"}}},
            },
        )


def test_a_call_is_parsed_and_answered(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=CALL, tools=[ADD])
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    [call] = choice.message.tool_calls
    assert call.type == "function" and call.id
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 2}')
    result: ChatCompletionMessageParam = {
        "role": "tool",
        "tool_call_id": call.id,
        "content": "4",
    }
    history: list[Any] = [*CALL, choice.message, result, *said("and?")]
    again = client.chat.completions.create(model=model, messages=history, max_tokens=4)
    assert again.choices[0].finish_reason


def test_a_call_is_streamed_in_pieces(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(model=model, messages=CALL, tools=[ADD]) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None and [one.function.arguments for one in calls] == ['{"a": 2}']
    assert len([one for one in events if one.type == "tool_calls.function.arguments.delta"]) > 2
    assert final.choices[0].finish_reason == "tool_calls"


def test_text_completions_are_parsed_whole_and_in_pieces(client: openai.OpenAI, model: str) -> None:
    prompt = "Why is the sky blue?"
    whole = client.completions.create(model=model, prompt=prompt, max_tokens=8, seed=1, logprobs=1)
    [choice] = whole.choices
    assert (choice.index, choice.finish_reason, whole.object) == (0, "length", "text_completion")
    assert whole.usage is not None and whole.usage.completion_tokens == 8
    told = choice.logprobs
    assert told is not None and told.tokens and told.text_offset and told.top_logprobs
    assert "".join(told.tokens) == choice.text
    pieces = list(
        client.completions.create(
            model=model,
            prompt=prompt,
            max_tokens=8,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    shown = [piece.choices[0].text for piece in pieces if piece.choices]
    assert "".join(shown) == choice.text
    assert (pieces[-1].choices, pieces[-1].usage) == ([], whole.usage)
    with pytest.raises(openai.BadRequestError, match="echo"):
        client.completions.create(model=model, prompt=prompt, echo=True)


def test_several_answers_are_parsed_whole_and_in_pieces(client: openai.OpenAI, model: str) -> None:
    whole = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=8, seed=1, n=3
    )
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage is not None and whole.usage.completion_tokens == 24
    shown = ["", "", ""]
    for piece in client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=8, seed=1, n=3, stream=True
    ):
        for choice in piece.choices:
            shown[choice.index] += choice.delta.content or ""
    assert shown == [choice.message.content for choice in whole.choices]
    texts = client.completions.create(model=model, prompt=["one", "two"], max_tokens=4, n=2)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]


def test_a_stream_that_the_sdk_read_can_be_replayed_elsewhere(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=model,
        messages=MESSAGES,
        max_tokens=8,
        stream=True,
        extra_headers={"X-Conversation-Id": f"sdk::{model}"},
    ) as response:
        body = b"".join(response.iter_bytes())
    assert body.endswith(b"data: [DONE]\n\n")
    for offset in (0, 1, len(body) // 2, len(body)):
        replayed = read(nodes[1], "sdk", offset)
        assert (replayed.status_code, replayed.content) == (200, body[offset:])


def test_a_whole_answer_with_the_header_is_the_same_and_can_be_read(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    plain = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8, seed=1)
    named = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_tokens=8,
        seed=1,
        extra_headers={"X-Conversation-Id": "whole"},
    )
    assert named.choices == plain.choices
    assert named.id.encode() in read(nodes[1], "whole").content


def test_an_intent_is_one_generation_for_the_sdk_too(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    def answer(at: openai.OpenAI, words: str, **query: str) -> str:
        stream = at.chat.completions.create(
            model=model,
            messages=said(words),
            stream=True,
            extra_headers={"Idempotency-Key": "sdk-intent"},
            extra_query=query,
        )
        return "".join((one.choices[0].delta.content or "") + one.id for one in stream)

    with openai.OpenAI(base_url=f"{nodes[1]}/v1", api_key=KEY, max_retries=0) as elsewhere:
        first = answer(client, "[[tokens=12 rate=0]]")
        assert answer(elsewhere, "[[tokens=12 rate=0]]", if_busy="reject") == first
        with pytest.raises(openai.UnprocessableEntityError, match="sdk-intent"):
            answer(elsewhere, "something else")


def test_a_busy_conversation_is_a_conflict_error(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    name = {"X-Conversation-Id": "sdk-busy"}
    with client.chat.completions.create(
        model=model, messages=SLOW, stream=True, extra_headers=name
    ) as stream:
        next(stream)
        with pytest.raises(openai.ConflictError) as conflict:
            client.chat.completions.create(
                model=model,
                messages=MESSAGES,
                extra_headers=name,
                extra_query={"if_busy": "reject"},
            )
    assert isinstance(conflict.value.body, dict) and conflict.value.body["current_epoch"]
    httpx.delete(f"{nodes[1]}/v1/stream", params={"conv_id": "sdk-busy"}, headers=AUTHORIZATION)


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    [only] = client.models.list()
    assert only.object == "model" and only.id and only.created > 0
    assert client.models.retrieve(only.id).id == only.id


def test_mistakes_are_the_sdks_own_errors(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=-5)
    with pytest.raises(openai.BadRequestError, match="not found"):
        client.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="Field 'n'"):
        client.chat.completions.create(model=model, messages=MESSAGES, n=33)
    with pytest.raises(openai.BadRequestError, match="no tool is called 'subtract'"):
        client.chat.completions.create(
            model=model,
            messages=MESSAGES,
            tools=[ADD],
            tool_choice={"type": "function", "function": {"name": "subtract"}},
        )


def test_a_prompt_beyond_the_context_tells_both_numbers(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=model, messages=said("x" * 9000), stream=True)
    assert isinstance(refused.value.body, dict)
    assert refused.value.type == "exceed_context_size_error"
    assert refused.value.body["n_prompt_tokens"] > refused.value.body["n_ctx"] == 8192


def test_a_wrong_key_is_an_authentication_error(nodes: list[str]) -> None:
    with (
        openai.OpenAI(base_url=f"{nodes[1]}/v1", api_key="other", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="Invalid API Key"),
    ):
        stranger.models.list()


def test_what_is_not_there_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(model="any", input="any")


def test_a_failure_before_the_first_token_is_a_server_error(
    client: openai.OpenAI, model: str
) -> None:
    for stream in (True, False):
        with pytest.raises(openai.InternalServerError, match="token 0"):
            client.chat.completions.create(
                model=model, messages=said("[[fail_at=0]]"), stream=stream
            )


def test_a_failure_in_the_middle_is_raised_after_what_was_said(
    client: openai.OpenAI, model: str
) -> None:
    stream = client.chat.completions.create(
        model=model, messages=said("[[fail_at=20 rate=0]]"), stream=True
    )
    seen = 0
    with pytest.raises(openai.APIError, match="token 20"):
        for _ in stream:
            seen += 1
    assert seen > 1


def test_a_node_that_dies_is_never_taken_for_the_end(
    client: openai.OpenAI, model: str, cluster: Cluster
) -> None:
    stream = client.chat.completions.create(model=model, messages=SLOW, stream=True)
    next(stream)
    killed = cluster.kill("api-1")
    with pytest.raises((openai.APIError, httpx.TransportError)):
        list(stream)
    cluster.wait_for(lambda state: state["nodes"][0]["pid"] != killed)


def test_a_stop_elsewhere_ends_the_sdks_stream(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=SLOW,
        stream=True,
        extra_headers={"X-Conversation-Id": "to-stop"},
    )
    for _ in range(3):
        next(stream)
    stopped = httpx.delete(
        f"{nodes[1]}/v1/stream", params={"conv_id": "to-stop"}, headers=AUTHORIZATION
    )
    assert stopped.status_code == 204
    assert len(list(stream)) < 1000
    assert read(nodes[0], "to-stop").status_code == 404


def test_leaving_the_stream_is_no_error(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(model=model, messages=SLOW, stream=True) as stream:
        next(stream)
    assert client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=1).choices


@pytest.mark.anyio
async def test_the_asynchronous_sdk_reads_several_at_once(nodes: list[str], model: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{nodes[1]}/v1", api_key=KEY) as client:

        async def answer(number: int) -> str:
            stream = await client.chat.completions.create(
                model=model, messages=said(f"[[tokens=80 rate=0 seed={number}]]"), stream=True
            )
            return "".join([one.choices[0].delta.content or "" async for one in stream])

        answers = await asyncio.gather(*map(answer, range(4)))
    assert len(set(answers)) == 4


def test_embeddings_are_floats_whatever_the_wire_carries(client: openai.OpenAI, model: str) -> None:
    texts = ["Why is the sky blue?", "語", "a"]
    answer = client.embeddings.create(model=model, input=texts)  # asks for base64
    plain = client.embeddings.create(model=model, input=texts, encoding_format="float")
    assert [one.embedding for one in answer.data] == [one.embedding for one in plain.data]
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert (answer.model, answer.usage.total_tokens) == (model, plain.usage.prompt_tokens)
    [cut] = client.embeddings.create(model=model, input=[[1, 2]], dimensions=2).data
    assert len(cut.embedding) == 2


def test_a_thought_is_parsed_beside_the_content_and_ended_by_order(
    client: openai.OpenAI, model: str
) -> None:
    thinks = said("[[rate=0]][[say]]<think>2 + 2 is 4</think>four[[/say]]")
    message = client.chat.completions.create(model=model, messages=thinks).choices[0].message
    assert (message.content, message.model_extra) == ("four", {"reasoning_content": "2 + 2 is 4"})
    endless = said("[[say]]<think>" + 300 * "so " + "[[/say]]")
    control = {"reasoning_control": True}
    stream = client.chat.completions.create(
        model=model, messages=endless, stream=True, max_tokens=300, extra_body=control
    )
    thinking = next(
        one for one in stream if "reasoning_content" in (one.choices[0].delta.model_extra or {})
    )
    order = {"id": thinking.id, "action": "reasoning_end"}
    told = client.post("/chat/completions/control", cast_to=object, body=order)
    assert told == {"success": True}
    content = "".join(one.choices[0].delta.content or "" for one in stream)
    assert "so so" in content  # whatever the order cut in two
