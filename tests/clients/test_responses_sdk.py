"""The official ``openai`` SDK's Responses, unmodified, against a cluster of real processes."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.responses import FunctionToolParam, Response
from sdk_cluster import KEY

from tests.protocol.wire import until

pytestmark = pytest.mark.system

SHORT = "[[tokens=40 rate=0 seed=3]]"


@pytest.fixture
def client(nodes: list[str]) -> Iterator[openai.OpenAI]:
    """The SDK on the first node; it repeats nothing, so that nothing is hidden."""
    with openai.OpenAI(base_url=f"{nodes[0]}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_a_response_is_parsed_whole(client: openai.OpenAI, model: str) -> None:
    response = client.responses.create(
        model=model, input=SHORT, instructions="Be brief.", metadata={"a": "b"}
    )
    assert response.status == "completed" and response.output_text
    assert response.id.startswith("resp_") and response.model == model
    assert response.usage is not None and response.usage.output_tokens == 40
    assert response.usage.total_tokens == response.usage.input_tokens + 40
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    assert (response.tools, response.tool_choice) == ([], "auto")
    assert response.error is None and response.incomplete_details is None


def test_a_raw_stream_is_the_same_response_in_events(client: openai.OpenAI, model: str) -> None:
    whole = client.responses.create(model=model, input=SHORT, temperature=0)
    events = list(client.responses.create(model=model, input=SHORT, temperature=0, stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed" and last.response.output_text == text
    assert (last.response.completed_at or 0) >= last.response.created_at


def test_the_sdks_own_accumulation_is_the_response(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=SHORT) as stream:
        snapshots = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == snapshots[-1] and len(snapshots) > 1


def test_what_was_cut_is_incomplete(client: openai.OpenAI, model: str) -> None:
    events = list(
        client.responses.create(model=model, input=SHORT, max_output_tokens=3, stream=True)
    )
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.status == "incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"


def test_a_conversation_is_given_back_as_it_came(client: openai.OpenAI, model: str) -> None:
    first = client.responses.create(model=model, input=SHORT)
    items = [item.model_dump(exclude_none=True) for item in first.output]
    asked = {"role": "user", "content": SHORT}
    second = client.responses.create(
        model=model,
        input=[asked, *items, asked],  # type: ignore[list-item]
        max_output_tokens=4,
        extra_body={"seed": 7},
    )
    assert second.usage is not None and first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens


def test_the_sdk_reads_logprobs(client: openai.OpenAI, model: str) -> None:
    response = client.responses.create(
        model=model, input=SHORT, include=["message.output_text.logprobs"], top_logprobs=1
    )
    [item] = response.output
    assert item.type == "message" and item.content[0].type == "output_text"
    told = item.content[0].logprobs
    assert told and all(len(one.top_logprobs) == 1 for one in told)
    shown = b"".join(bytes(one.bytes) for one in told).decode("utf-8", "replace")
    assert shown == response.output_text


def test_tokens_are_counted(client: openai.OpenAI, model: str) -> None:
    counted = client.responses.input_tokens.count(model=model, input=SHORT)
    response = client.responses.create(model=model, input=SHORT)
    assert response.usage is not None and counted.input_tokens == response.usage.input_tokens


def test_a_stream_that_the_sdk_read_can_be_replayed_elsewhere(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    with client.responses.with_streaming_response.create(
        model=model, input=SHORT, stream=True, extra_headers={"X-Conversation-Id": "responses"}
    ) as response:
        body = b"".join(response.iter_bytes())
    replayed = httpx.get(
        f"{nodes[1]}/v1/stream",
        params={"conv_id": "responses"},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    assert replayed.content == body


def test_mistakes_are_the_sdks_own_errors(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="image"):
        client.responses.create(
            model=model,
            input=[
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": "x", "detail": "auto"}],
                }
            ],
        )
    with pytest.raises(openai.BadRequestError, match="not found"):
        client.responses.create(model="other", input="x")


def test_a_failure_in_the_middle_is_told_as_an_error_event(
    client: openai.OpenAI, model: str
) -> None:
    events = list(client.responses.create(model=model, input="[[fail_at=20 rate=0]]", stream=True))
    last = events[-1]
    assert last.type == "error" and "token 20" in last.message
    with pytest.raises(openai.InternalServerError, match="token 0"):
        client.responses.create(model=model, input="[[fail_at=0]]")


def test_a_background_response_is_polled_to_its_end(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    begun = client.responses.create(model=model, input=SHORT, background=True)
    assert begun.background and begun.status in ("queued", "in_progress", "completed")
    with openai.OpenAI(base_url=f"{nodes[1]}/v1", api_key=KEY, max_retries=0) as elsewhere:

        def ended() -> Response | None:
            found = elsewhere.responses.retrieve(begun.id)
            return found if found.status == "completed" else None

        found = until(ended)
        assert found is not None and found.output_text
        stream = elsewhere.responses.retrieve(begun.id, stream=True, starting_after=3)
        events = list(stream)
        assert events[0].sequence_number == 4 and events[-1].type == "response.completed"
        following = elsewhere.responses.create(
            model=model, input="And?", previous_response_id=begun.id, max_output_tokens=2
        )
        assert following.previous_response_id == begun.id
        elsewhere.responses.delete(begun.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(begun.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=model, input="And?", previous_response_id=begun.id)


def test_what_was_asked_is_listed_page_by_page(
    client: openai.OpenAI, model: str, nodes: list[str]
) -> None:
    said = [{"role": "user", "content": f"Word {number}."} for number in range(5)]
    response = client.responses.create(model=model, input=said, max_output_tokens=2)  # type: ignore[arg-type]
    with openai.OpenAI(base_url=f"{nodes[1]}/v1", api_key=KEY, max_retries=0) as elsewhere:
        items = list(elsewhere.responses.input_items.list(response.id, order="asc", limit=2))
        asked = [one for one in items if one.type == "message" and one.role == "user"]
        texts = [part.text for one in asked for part in one.content if part.type == "input_text"]
        assert texts == [one["content"] for one in said] and len(items) == len(said)
        with pytest.raises(openai.NotFoundError):
            elsewhere.responses.input_items.list("resp_unknown")


def test_what_only_the_vendor_does_is_refused_in_so_many_words(
    client: openai.OpenAI, model: str
) -> None:
    with pytest.raises(openai.APIStatusError, match="does not compact") as caught:
        client.responses.compact(model=model, input=SHORT)
    assert caught.value.status_code == 501
    with pytest.raises(openai.BadRequestError, match="'conversation'"):
        client.responses.create(model=model, input=SHORT, conversation="conv_1")


def test_a_background_response_is_cancelled(client: openai.OpenAI, model: str) -> None:
    begun = client.responses.create(model=model, input="[[tokens=4000 rate=50]]", background=True)
    cancelled = client.responses.cancel(begun.id)
    assert (cancelled.id, cancelled.status) == (begun.id, "cancelled")


ADD: FunctionToolParam = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}
CALL = '[[say]]{"tool_calls": [{"name": "add", "arguments": {"a": 2}}]}[[/say]]'


def test_a_function_is_called_and_its_output_is_taken(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=CALL, tools=[ADD]) as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert "response.function_call_arguments.done" in kinds
    [call] = response.output
    assert call.type == "function_call" and call.call_id.startswith("call_")
    assert (call.name, call.arguments) == ("add", '{"a": 2}')
    following = client.responses.create(
        model=model,
        previous_response_id=response.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "4"}],
        tools=[ADD],
        max_output_tokens=4,
    )
    assert following.status == "incomplete"


def test_a_thought_is_an_item_that_can_be_given_back(client: openai.OpenAI, model: str) -> None:
    words = "[[say]]<think>Hm.</think>Four.[[/say]]"
    with client.responses.stream(model=model, input=words) as stream:
        deltas = [e.delta for e in stream if e.type == "response.reasoning_text.delta"]
        response = stream.get_final_response()
    first, _ = response.output
    assert first.type == "reasoning" and first.content is not None
    assert first.content[0].text == "".join(deltas) == "Hm."
    assert response.output_text == "Four."
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    items = [item.model_dump(exclude_none=True) for item in response.output]
    again = client.responses.create(model=model, input=[*items, {"role": "user", "content": SHORT}])
    assert again.status == "completed"
