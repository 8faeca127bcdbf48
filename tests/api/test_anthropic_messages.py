"""Anthropic's Messages: what a body means as a chat, and what a log means as a message."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dialects.anthropic_messages import MAX_TOKENS, MESSAGES, MessageFold, chat_of, parse
from api.dialects.as_chat import in_own_words, own_words
from api.fields import INT_MAX
from api.problems import RequestInvalid
from replay import frames
from replay.request import GenerationRequest, SamplingParams

HELLO = [{"role": "user", "content": "hello"}]


def chat(**body: Any) -> dict[str, Any]:
    return chat_of({"messages": HELLO, **body})


def mistake(**body: Any) -> str:
    with pytest.raises(RequestInvalid) as caught:
        parse({"messages": HELLO, "max_tokens": 8, **body}, random_seed=1)
    return str(caught.value)


def said(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What becomes of messages."""
    found: list[dict[str, Any]] = chat(messages=list(messages))["messages"]
    return found


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}


def test_a_bare_request_is_a_bare_chat() -> None:
    request = parse({"messages": HELLO, "model": "m", "stream": True}, random_seed=7)
    assert request.dialect == "anthropic.messages"
    assert (request.model, request.max_tokens, request.stop) == ("m", MAX_TOKENS, ())
    assert request.messages == tuple(HELLO)
    assert request.sampling == SamplingParams(seed=7)
    assert request.render.stream


def test_what_the_vendor_names_otherwise_is_renamed() -> None:
    request = parse(
        {
            "messages": HELLO,
            "max_tokens": 3,
            "stop_sequences": ["END", "."],
            "temperature": 0.5,
            "top_k": 3,
            "top_p": 0.5,
            "metadata": {"user_id": "me"},
            "service_tier": "auto",
            "min_p": 0.25,
        },
        random_seed=7,
    )
    assert (request.max_tokens, request.stop) == (3, ("END", "."))
    assert request.sampling == SamplingParams(
        seed=7, temperature=0.5, top_k=3, top_p=0.5, min_p=0.25
    )


def test_a_chats_own_words_for_it_count_for_nothing() -> None:
    odd = {"n": 4, "stop": 5, "n_predict": 6, "logprobs": True, "echo": 7, "stream_options": 8}
    assert chat(**odd) == chat()


@pytest.mark.parametrize(
    ("system", "content"),
    [
        ("Be brief.", "Be brief."),
        ([text("Be brief.")], "Be brief."),
        (
            [text("a"), text("b")],
            [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        ),
        (
            "x-anthropic-billing-header: cc_version=2; cch=a1b2c;",
            "x-anthropic-billing-header: cc_version=2; cch=0;",
        ),
        ("say cch=a1b2c", "say cch=a1b2c"),
    ],
)
def test_the_system_prompt_comes_first(system: Any, content: Any) -> None:
    assert chat(system=system)["messages"] == [{"role": "system", "content": content}, *HELLO]


def test_without_a_system_prompt_there_is_no_message_of_it() -> None:
    for nothing in (None, [], ""):
        assert chat(system=nothing)["messages"] == HELLO


def test_turns_of_one_role_are_one_turn() -> None:
    assert said(
        {"role": "user", "content": "a"},
        {"role": "user", "content": [text("b")]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [text("d")]},
    ) == [
        {"role": "user", "content": [{"type": "text", "text": one} for one in "ab"]},
        {"role": "assistant", "content": [{"type": "text", "text": one} for one in "cd"]},
    ]


def test_an_assistants_blocks_are_one_message() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Let me ", "signature": "x"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "thinking", "thinking": "see.", "signature": "y"},
        text("I look."),
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "ü", "n": [1]}},
    ]
    function = {"name": "look", "arguments": '{"at":"ü","n":[1]}'}
    assert said({"role": "assistant", "content": blocks}) == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Let me see.",
            "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
        }
    ]


def test_results_of_tools_are_messages_of_their_own_in_their_order() -> None:
    blocks = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny", "is_error": False},
        text("And?"),
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [text("a"), text("b")]},
        {"type": "tool_result", "tool_use_id": "toolu_3"},
    ]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert said({"role": "user", "content": blocks}) == [
        {"role": "tool", "tool_call_id": "toolu_1", "content": "sunny"},
        {"role": "user", "content": "And?"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": parts},
        {"role": "tool", "tool_call_id": "toolu_3", "content": ""},
    ]


def test_tools_become_functions() -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string"}}}
    tool = {"name": "look", "description": "Looks.", "input_schema": schema, "strict": True}
    assert chat(tools=[tool, {"type": "custom", "name": "f", "input_schema": {}}])["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "look",
                "parameters": schema,
                "description": "Looks.",
                "strict": True,
            },
        },
        {"type": "function", "function": {"name": "f", "parameters": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        (
            {"type": "tool", "name": "look"},
            {"type": "function", "function": {"name": "look"}},
        ),
    ],
)
def test_the_choice_among_tools(choice: dict[str, Any], chosen: Any) -> None:
    tools = [{"name": "look", "input_schema": {}}]
    assert chat(tools=tools, tool_choice=choice)["tool_choice"] == chosen
    only = chat(tools=tools, tool_choice={**choice, "disable_parallel_tool_use": True})
    assert only["parallel_tool_calls"] is False


def test_thinking_is_switched_and_limited() -> None:
    on = chat(thinking={"type": "enabled", "budget_tokens": 2048})
    assert on["thinking_budget_tokens"] == 2048
    assert on["chat_template_kwargs"] == {"enable_thinking": True}
    off = chat(thinking={"type": "disabled"}, chat_template_kwargs={"style": "x"})
    assert off["chat_template_kwargs"] == {"enable_thinking": False, "style": "x"}
    assert "thinking_budget_tokens" not in off
    for kind in ("adaptive", "between_tools"):
        assert "chat_template_kwargs" not in chat(thinking={"type": kind})


def test_the_outputs_form_and_effort() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    found = chat(output_config={"effort": "low", "format": form})
    assert found["reasoning_effort"] == "low"
    assert found["response_format"] == {
        "type": "json_schema",
        "json_schema": {"schema": {"type": "object"}},
    }


IMAGE = {"type": "image", "source": {"type": "url", "url": "x"}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": None}, "'messages'"),
        ({"messages": {}}, "'messages'"),
        ({"messages": ["hi"]}, "'messages[0]'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'messages[0].role'"),
        ({"messages": [{"role": [], "content": "x"}]}, "'messages[0].role'"),
        ({"messages": [{"role": "user"}]}, "'messages[0].content'"),
        ({"messages": [{"role": "user", "content": [1]}]}, "'messages[0].content[0]'"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "'messages[0].content[0].type'"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "image input is not supported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "'messages[0].content[0].text'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "'messages[0].content[0].tool_use_id'",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}
                        ],
                    }
                ]
            },
            "'messages[0].content[0].content[0]'",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": "x"}]}]},
            "'messages[0].content[0].input'",
        ),
        ({"system": 1}, "'system'"),
        ({"system": [IMAGE]}, "'system[0]'"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"max_tokens": "8"}, "'max_tokens'"),
        ({"max_tokens": INT_MAX + 1}, "'max_tokens'"),
        ({"stop_sequences": "x"}, "'stop_sequences'"),
        ({"stop_sequences": [1]}, "'stop_sequences[0]'"),
        ({"tools": {}}, "'tools'"),
        ({"tools": [1]}, "'tools[0]'"),
        ({"tools": [{"name": "f"}]}, "'tools[0].input_schema'"),
        ({"tools": [{"input_schema": {}}]}, "'tools[0].name'"),
        ({"tools": [{"type": "web_search_20250305"}]}, "'tools[0].type'"),
        ({"tool_choice": "auto"}, "'tool_choice'"),
        ({"tool_choice": {"type": "some"}}, "'tool_choice.type'"),
        ({"tool_choice": {"type": ["auto"]}}, "'tool_choice.type'"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "'tool_choice.name'"),
        ({"thinking": True}, "'thinking'"),
        ({"thinking": {"type": "much"}}, "'thinking.type'"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "'thinking.budget_tokens'"),
        ({"output_config": {"format": {"type": "xml"}}}, "'output_config.format.type'"),
        ({"container": "c"}, "'container'"),
        ({"mcp_servers": [{}]}, "'mcp_servers'"),
        ({"temperature": "hot"}, "'temperature'"),
        ({"stream": "yes"}, "'stream'"),
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
TEXTS = st.text() | st.lists(
    st.builds(lambda words: {"type": "text", "text": words}, st.text()), max_size=3
)
USERS = st.builds(
    lambda blocks: {"role": "user", "content": blocks},
    TEXTS
    | st.lists(
        st.builds(
            lambda id, content: {"type": "tool_result", "tool_use_id": id, "content": content},
            st.text(),
            TEXTS,
        )
    ),
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)
ASSISTANTS = st.builds(
    lambda blocks: {"role": "assistant", "content": blocks},
    st.text()
    | st.lists(
        st.builds(lambda words: {"type": "text", "text": words}, st.text())
        | st.builds(
            lambda words: {"type": "thinking", "thinking": words, "signature": ""}, st.text()
        )
        | st.builds(
            lambda id, name, given: {"type": "tool_use", "id": id, "name": name, "input": given},
            st.text(),
            st.text(),
            OBJECTS,
        ),
        max_size=4,
    ),
)


@given(
    st.lists(USERS | ASSISTANTS, max_size=5),
    st.fixed_dictionaries(
        {"max_tokens": st.integers(1, INT_MAX)},
        optional={
            "system": TEXTS,
            "stop_sequences": st.lists(st.text()),
            "temperature": st.floats(0, 1),
            "top_p": st.floats(0, 1),
            "top_k": st.integers(0, 500),
            "metadata": st.fixed_dictionaries({"user_id": st.text()}),
            "stream": st.booleans(),
            "tools": st.lists(
                st.builds(lambda name, s: {"name": name, "input_schema": s}, st.text(), OBJECTS)
            ),
        },
    ),
)
def test_whatever_the_vendor_accepts_has_a_meaning(
    messages: list[dict[str, Any]], body: dict[str, Any]
) -> None:
    found = chat_of({"messages": messages, **body})
    json.dumps(found, allow_nan=False)
    roles = [message["role"] for message in found["messages"]]
    assert not any(a == b != "tool" for a, b in pairwise(roles))


@given(st.dictionaries(st.text() | st.sampled_from(["messages", "system", "tools"]), JSON))
def test_any_json_is_a_request_or_a_mistake(body: dict[str, Any]) -> None:
    try:
        request = parse({"messages": HELLO, **body}, random_seed=1)
    except RequestInvalid:
        return
    assert GenerationRequest.from_json(request.to_json()) == request


def folded(*events: dict[str, Any]) -> dict[str, Any]:
    fold = MessageFold(parse({"messages": HELLO}, random_seed=1))
    for event in events:
        fold.feed(frames.PING + frames.event(event["type"], event))
    assert fold.error is None
    found: dict[str, Any] = fold.answer()
    return found


def block(index: int, begun: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of one block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": begun},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 5, "output_tokens": 0},
    },
}


def test_a_log_is_folded_into_its_message() -> None:
    arguments = [{"type": "input_json_delta", "partial_json": part} for part in ('{"a"', ":[1]}")]
    assert folded(
        START,
        {"type": "ping"},
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Hm"},
            {"type": "thinking_delta", "thinking": "m."},
            {"type": "signature_delta", "signature": "s"},
        ),
        *block(
            1,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "Ja "},
            {"type": "text_delta", "text": "ü"},
        ),
        *block(2, {"type": "tool_use", "id": "t", "name": "f", "input": {}}, *arguments),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 9},
        },
        {"type": "message_stop"},
    ) == {
        "id": "msg_1",
        "content": [
            {"type": "thinking", "thinking": "Hmm.", "signature": "s"},
            {"type": "text", "text": "Ja ü"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1]}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 9},
    }


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        ('{"a": "ü"}', {"a": "ü"}),
        *((said, {"INVALID_JSON": said}) for said in ('{"a":', "[1]", '{"a": NaN}', '{"a":1e999}')),
        ('{"a":' * 10_000, {"INVALID_JSON": '{"a":' * 10_000}),
    ],
)
def test_arguments_that_are_no_json_are_told_as_they_are(
    arguments: str, given: dict[str, Any]
) -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": arguments}
    assert folded(START, *block(0, call, delta))["content"] == [{**call, "input": given}]


CALL = {"type": "tool_use", "id": "t", "name": "a", "input": {}}
TWINS = [{"name": "a", "input_schema": {"type": "object"}}] * 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"metadata": 5}, "metadata"),
        ({"thinking": {"type": "adaptive", "display": "some"}}, "thinking.display"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"stop_sequences": ["a", None]}, "stop_sequences[1]"),
        ({"stop_sequences": ["a"] * 300}, "stop_sequences"),
        ({"tools": TWINS}, "tools[1].name"),
        ({"output_config": {"effort": "so-so"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"messages": [{"role": "assistant", "content": [CALL]}]}, "messages"),
    ],
)
def test_a_mistake_is_told_by_the_clients_own_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestInvalid) as caught, in_own_words(MESSAGES.names):
        parse({"messages": HELLO, "max_tokens": 8, **body}, random_seed=1)
    assert f"Field '{field}'" in str(caught.value)


def test_what_a_worker_finds_wrong_is_told_so_too() -> None:
    told = own_words("Field 'response_format.json_schema.schema': no", MESSAGES.names)
    assert told == "Field 'output_config.format.schema': no"
    assert own_words("Field 'stop_sequences'", MESSAGES.names) == "Field 'stop_sequences'"
