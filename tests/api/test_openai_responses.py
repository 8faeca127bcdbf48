"""OpenAI's Responses: what a body means as a chat, and what a response says again of it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dialects.as_chat import in_own_words, own_words
from api.dialects.openai_responses import RESPONSES, chat_of, parse
from api.dialects.response_items import items_of
from api.problems import RequestInvalid
from replay.request import GenerationRequest, SamplingParams


def chat(**body: Any) -> dict[str, Any]:
    return chat_of({"input": "hello", **body})


def said(*items: Any) -> list[dict[str, Any]]:
    """What becomes of an input."""
    found: list[dict[str, Any]] = chat(input=list(items))["messages"]
    return found


def mistake(**body: Any) -> str:
    with pytest.raises(RequestInvalid) as caught:
        parse({"input": "hello", **body}, random_seed=1)
    return str(caught.value)


def text(words: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": kind, "text": words}


HELLO = {"role": "user", "content": "hello"}


def test_a_bare_request_is_a_bare_chat() -> None:
    request = parse({"input": "hello", "model": "m", "stream": True}, random_seed=7)
    assert request.dialect == "openai.responses"
    assert (request.model, request.max_tokens, request.render.stream) == ("m", -1, True)
    assert request.messages == (HELLO,)
    assert request.sampling == SamplingParams(seed=7)


def test_instructions_come_first() -> None:
    assert chat(instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        HELLO,
    ]


def test_what_the_vendor_names_otherwise_is_renamed() -> None:
    request = parse(
        {
            "input": "hello",
            "max_output_tokens": 3,
            "temperature": 0.5,
            "top_p": 0.5,
            "min_p": 0.25,
            "top_logprobs": 4,
            "store": False,
        },
        random_seed=7,
    )
    assert request.max_tokens == 3
    assert request.sampling == SamplingParams(
        seed=7, temperature=0.5, top_p=0.5, min_p=0.25, logprobs=True, n_probs=4
    )
    only = parse({"input": "x", "include": ["message.output_text.logprobs"]}, random_seed=7)
    assert only.sampling == SamplingParams(seed=7, logprobs=True)


def test_a_chats_own_words_for_it_count_for_nothing() -> None:
    assert chat(n=4, stop=5, max_tokens=6, messages=7, stream_options={}) == chat()


def test_items_of_those_who_ask() -> None:
    assert said(
        {"role": "user", "content": "a"},
        {"type": "message", "role": "developer", "content": [text("b")]},
        {"role": "system", "content": [text("c"), text("d")]},
    ) == [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "system", "content": [{"type": "text", "text": one} for one in "cd"]},
    ]


def test_what_an_assistant_did_in_a_row_is_one_message() -> None:
    function = {"name": "look", "arguments": '{"at":1}'}
    assert said(
        HELLO,
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm"}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [text("I look.", "output_text"), {"type": "refusal", "refusal": "No."}],
        },
        {"type": "function_call", "call_id": "call_1", "id": "fc_1", **function},
        {"type": "function_call_output", "call_id": "call_1", "output": [text("sunny")]},
        {"role": "assistant", "content": "Sunny."},
    ) == [
        HELLO,
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I look."}, {"type": "text", "text": "No."}],
            "reasoning_content": "Hm",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]


def test_an_output_may_not_say_whose_it_is() -> None:
    assert said({"type": "function_call_output", "output": "4"}) == [
        {"role": "tool", "tool_call_id": "", "content": "4"}
    ]


def test_of_a_thought_that_only_its_vendor_reads_the_summary_is_told() -> None:
    item = {"type": "reasoning", "encrypted_content": "x", "summary": []}
    assert said(item)[0] == {"role": "assistant", "content": ""}
    item["summary"] = [{"type": "summary_text", "text": "I thought."}]
    assert said(item)[0]["reasoning_content"] == "I thought."


TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}
NESTED = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object"}, "strict": True},
}


def test_functions_are_nested_and_hosted_tools_not_offered() -> None:
    found = chat(tools=[TOOL, {"type": "web_search"}], tool_choice="required")
    assert (found["tools"], found["tool_choice"]) == ([NESTED], "required")
    assert "tools" not in chat(tools=[{"type": "web_search"}])


def test_the_choice_among_functions() -> None:
    other = {**TOOL, "name": "other", "description": "d", "strict": False}
    named = {"type": "function", "name": "look"}
    found = chat(tools=[TOOL, other], tool_choice=named)
    assert found["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert found["tools"][1]["function"] == {
        "name": "other",
        "description": "d",
        "parameters": {"type": "object"},
        "strict": False,
    }
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    found = chat(tools=[TOOL, other], tool_choice=allowed)
    assert (found["tools"], found["tool_choice"]) == ([NESTED], "required")


def test_the_form_of_the_text_and_the_effort() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    assert chat(text={"format": schema})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }
    assert chat(text={"format": {"type": "json_object"}})["response_format"] == {
        "type": "json_object"
    }
    assert "response_format" not in chat(text={"format": {"type": "text"}, "verbosity": "low"})
    assert chat(reasoning={"effort": "low"})["reasoning_effort"] == "low"


def test_the_response_says_again_what_was_asked() -> None:
    request = parse(
        {
            "input": "hello",
            "instructions": "Be brief.",
            "max_output_tokens": 3,
            "metadata": {"a": "b"},
            "prompt_cache_key": "k",
            "safety_identifier": "me",
            "temperature": 0.5,
            "user": "me",
        },
        random_seed=7,
    )
    assert request.render.response == {
        "background": False,
        "instructions": "Be brief.",
        "max_output_tokens": 3,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": "k",
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": "me",
        "store": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 0.95,
        "truncation": "disabled",
        "user": "me",
    }


def of(*parts: Any) -> dict[str, Any]:
    """A body with one message of these parts."""
    return {"input": [{"role": "user", "content": list(parts)}]}


def of_call(output: dict[str, Any]) -> dict[str, Any]:
    """A body with one output of a call."""
    return {"input": [{"type": "function_call_output", **output}]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": None}, "'input'"),
        ({"input": {}}, "'input'"),
        ({"input": ["x"]}, "'input[0]'"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'input[0]'"),
        ({"input": [{"role": "tool", "content": "x"}]}, "'input[0]'"),
        ({"input": [{"role": [], "content": "x"}]}, "'input[0]'"),
        ({"input": [{"role": "assistant", "type": "x", "content": ""}]}, "'input[0]'"),
        ({"input": [{"role": "user"}]}, "'input[0].content'"),
        (of(1), "'input[0].content[0]'"),
        (of({"type": "input_text"}), "'input[0].content[0].text'"),
        (of({"type": "input_image", "image_url": "x"}), "image input is not supported"),
        (of({"type": "input_file"}), "'input_file' is not supported"),
        (of(text("x", "output_text")), "'input[0].content[0].type'"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "'input[0].arguments'"),
        (of_call({"output": "", "call_id": 1}), "'input[0].call_id'"),
        (of_call({"call_id": "c"}), "'input[0].output'"),
        ({"input": [{"type": "reasoning", "content": "x"}]}, "'input[0].content'"),
        ({"input": [{"type": "reasoning", "content": [1]}]}, "'input[0].content[0]'"),
        ({"input": [{"type": "reasoning", "content": [{}]}]}, "'input[0].content[0].text'"),
        ({"instructions": 1}, "'instructions'"),
        ({"max_output_tokens": 0}, "'max_output_tokens'"),
        ({"include": "x"}, "'include'"),
        ({"reasoning": "low"}, "'reasoning'"),
        ({"text": {"format": {"type": "xml"}}}, "'text.format.type'"),
        ({"tools": {}}, "'tools'"),
        ({"tools": [1]}, "'tools[0]'"),
        ({"tools": [{"type": "function"}]}, "'tools[0].name'"),
        ({"tools": [{**TOOL, "parameters": 1}]}, "'tools[0].parameters'"),
        ({"tool_choice": 1}, "'tool_choice'"),
        ({"tool_choice": {"type": "web_search"}}, "'tool_choice.type'"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [TOOL] * 129}}, "'tool_choice.tools'"),
        ({"conversation": "c"}, "'conversation'"),
        ({"moderation": {"model": "m"}}, "'moderation'"),
        ({"temperature": "hot"}, "'temperature'"),
        ({"store": "yes"}, "'store'"),
        ({"user": 1}, "'user'"),
        ({"metadata": "x"}, "'metadata'"),
        ({"metadata": {"a": 1}}, "'metadata.a'"),
        ({"metadata": {"a": "x" * 513}}, "'metadata.a'"),
        ({"metadata": {"a" * 65: "x"}}, "'metadata'"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "'metadata'"),
        ({"user": "x" * 5_000_000}, "'user'"),
        ({"tools": [{**TOOL, "description": "x" * 5_000_000}], "tool_choice": "none"}, "'tools'"),
    ],
)
def test_a_mistake_names_its_field(body: dict[str, Any], field: str) -> None:
    assert field in mistake(**body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def parts(kind: str) -> st.SearchStrategy[Any]:
    """A content of one kind of part."""
    return st.text() | st.lists(st.builds(lambda words: text(words, kind), st.text()), max_size=3)


ITEMS = (
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "developer"]), "content": parts("input_text")},
        optional={"type": st.just("message")},
    )
    | st.fixed_dictionaries({"role": st.just("assistant"), "content": parts("output_text")})
    | st.fixed_dictionaries(
        {
            "type": st.just("function_call"),
            "call_id": st.text(),
            "name": st.text(),
            "arguments": st.text(),
        }
    )
    | st.fixed_dictionaries(
        {
            "type": st.just("function_call_output"),
            "call_id": st.text(),
            "output": parts("input_text"),
        }
    )
    | st.fixed_dictionaries(
        {"type": st.just("reasoning"), "summary": st.just([])},
        optional={
            "content": st.lists(st.builds(lambda words: text(words, "reasoning_text"), st.text()))
        },
    )
)


@given(st.lists(ITEMS, max_size=6), st.none() | st.text())
def test_whatever_the_vendor_accepts_has_a_meaning(
    items: list[dict[str, Any]], instructions: str | None
) -> None:
    messages = chat_of({"input": items, "instructions": instructions})["messages"]
    json.dumps(messages, allow_nan=False)
    roles = [message["role"] for message in messages]
    assert ("assistant", "assistant") not in pairwise(roles)


@given(st.lists(ITEMS, max_size=6))
def test_what_is_listed_of_an_input_means_the_same(items: list[dict[str, Any]]) -> None:
    messages = said(*items)
    listed = items_of(messages, "seed")
    assert said(*listed) == messages
    assert len({item["id"] for item in listed}) == len(listed)


@given(st.dictionaries(st.text() | st.sampled_from(["input", "text", "tools"]), JSON))
def test_any_json_is_a_request_or_a_mistake(body: dict[str, Any]) -> None:
    try:
        request = parse({"input": "hello", **body}, random_seed=1)
    except RequestInvalid:
        return
    assert GenerationRequest.from_json(request.to_json()) == request


TWINS = [{"type": "function", "name": "a"}] * 2
CALL = {"type": "function_call", "call_id": "c", "name": "a", "arguments": "{}"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"include": [5]}, "include"),
        ({"truncation": "some"}, "truncation"),
        ({"truncation": 5}, "truncation"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"reasoning": {"effort": "so-so"}}, "reasoning.effort"),
        ({"tools": TWINS}, "tools[1].name"),
        ({"tool_choice": {"type": "function", "name": "b"}}, "tool_choice.name"),
        ({"input": [CALL]}, "input"),
    ],
)
def test_a_mistake_is_told_by_the_clients_own_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestInvalid) as caught, in_own_words(RESPONSES.names):
        parse({"input": "hello", **body}, random_seed=1)
    assert f"Field '{field}'" in str(caught.value)


def test_what_a_worker_finds_wrong_is_told_so_too() -> None:
    for field, own in (
        ("response_format.json_schema.schema", "text.format.schema"),
        ("messages[0].tool_calls[0].function.arguments", "input"),
        ("messages", "input"),
        ("input[0].content", "input[0].content"),
    ):
        assert own_words(f"Field '{field}': no", RESPONSES.names) == f"Field '{own}': no"
