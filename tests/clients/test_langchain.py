"""Langchain, unmodified, over three of the dialects: what the vendors' SDKs do not send, it may.

The engine is the scripted one: what is tested is what Langchain makes of an answer.
"""

from __future__ import annotations

from functools import reduce
from operator import add as plus
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr
from sdk_cluster import KEY

pytestmark = pytest.mark.system

SECRET = SecretStr(KEY)
SHORT = "[[tokens=40 rate=0 seed=3]]"
FAST = "[[rate=0]]"
CALL = FAST + '[[say]]{"tool_calls": [{"name": "add", "arguments": {"a": 2}}]}[[/say]]'
THOUGHT = FAST + "[[say]]<think>Hm.</think>Four.[[/say]]"


def add(a: int) -> int:
    """Adds."""
    return a + a


class Place(BaseModel):
    """Somewhere."""

    name: str
    near: list[str]


ETNA = Place(name="Etna", near=["Catania"])
DIALECTS = ("chat", "responses", "messages")


@pytest.fixture(params=DIALECTS)
def talker(request: pytest.FixtureRequest, nodes: list[str], model: str) -> BaseChatModel:
    """One of Langchain's chat models; it repeats nothing, so that nothing is hidden."""
    if request.param == "messages":
        return ChatAnthropic(
            model_name=model, base_url=nodes[0], api_key=SECRET, max_retries=0, max_tokens=400
        )
    return ChatOpenAI(
        model=model,
        base_url=f"{nodes[0]}/v1",
        api_key=SECRET,
        max_retries=0,
        stream_usage=True,
        use_responses_api=request.param == "responses",
    )


def streamed(talker: Any, words: str) -> AIMessageChunk:
    """The sum of what was streamed, which came in pieces."""
    chunks: list[AIMessageChunk] = list(talker.stream(words))
    assert len(chunks) > 3
    return reduce(plus, chunks)


def input_tokens(message: AIMessage) -> int:
    """How long the prompt was."""
    assert message.usage_metadata is not None
    return message.usage_metadata["input_tokens"]


def test_an_answer_is_one_message(talker: BaseChatModel) -> None:
    answer = talker.invoke(SHORT)
    assert isinstance(answer, AIMessage) and answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 40


def test_a_stream_comes_to_the_same_message(talker: BaseChatModel) -> None:
    whole, total = talker.invoke(SHORT), streamed(talker, SHORT)
    assert total.text == whole.text
    assert total.usage_metadata is not None
    assert total.usage_metadata["output_tokens"] == 40


def test_a_tool_is_called_and_its_result_is_taken(talker: BaseChatModel) -> None:
    bound = talker.bind_tools([add])
    answer = bound.invoke(CALL)
    for one in (answer, streamed(bound, CALL)):
        [call] = one.tool_calls
        assert (call["name"], call["args"]) == ("add", {"a": 2}) and call["id"]
    result = ToolMessage("4", tool_call_id=answer.tool_calls[0]["id"])
    again = bound.invoke([HumanMessage(CALL), answer, result, HumanMessage(FAST)])
    assert input_tokens(again) > input_tokens(answer)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_is_an_object_of_the_class_that_was_asked_for(
    talker: BaseChatModel, method: str
) -> None:
    shape = talker.with_structured_output(Place, method=method)
    said = ETNA.model_dump_json()
    if method == "function_calling":
        said = f'{{"tool_calls": [{{"name": "Place", "arguments": {said}}}]}}'
    assert shape.invoke(f"{FAST}[[say]]{said}[[/say]]") == ETNA


def test_several_are_asked_at_once(talker: BaseChatModel) -> None:
    first, second = talker.batch([SHORT, "[[tokens=20 rate=0 seed=4]]"])
    assert first.text and second.text and first.text != second.text


@pytest.mark.parametrize("talker", ["responses", "messages"], indirect=True)
def test_a_thought_is_a_block_that_can_be_given_back(talker: BaseChatModel) -> None:
    answer = talker.invoke(THOUGHT)
    assert [block["type"] for block in answer.content_blocks] == ["reasoning", "text"]
    assert answer.text == "Four."
    again = talker.invoke([HumanMessage(THOUGHT), answer, HumanMessage(FAST)])
    assert input_tokens(again) > input_tokens(answer)


def test_a_response_goes_on_from_the_one_before(nodes: list[str], model: str) -> None:
    talker = ChatOpenAI(
        model=model,
        base_url=f"{nodes[0]}/v1",
        api_key=SECRET,
        max_retries=0,
        use_previous_response_id=True,
        output_version="responses/v1",
    )
    first = talker.invoke(SHORT)
    second = talker.invoke([HumanMessage(SHORT), first, HumanMessage(FAST)])
    told = talker.root_client.responses.retrieve(second.response_metadata["id"])
    assert told.previous_response_id == first.response_metadata["id"]
    assert input_tokens(second) > input_tokens(first)


def test_texts_become_vectors(nodes: list[str], model: str) -> None:
    embeddings = OpenAIEmbeddings(
        model=model,
        base_url=f"{nodes[0]}/v1",
        api_key=SECRET,
        max_retries=0,
        check_embedding_ctx_length=False,  # it would fetch the vendor's vocabulary
    )
    first, second = embeddings.embed_documents(["a river", "a hill"])
    assert first == pytest.approx(embeddings.embed_query("a river")) and first != second
