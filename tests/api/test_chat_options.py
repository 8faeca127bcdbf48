"""Tools and their choice: what of them reaches the template, and what names its field."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.chat_options import TOOLS_MAX, parse_options
from api.fields import Fields
from api.problems import RequestInvalid
from replay.request import ChatOptions


def tool(name: Any = "add", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


ADD, NOW = tool(), tool("now")


def parsed(**body: Any) -> ChatOptions:
    return parse_options(Fields(body))


@pytest.mark.parametrize("choice", [None, "auto"])
def test_all_tools_may_be_called(choice: Any) -> None:
    assert parsed(tools=[ADD, NOW], tool_choice=choice) == ChatOptions(tools=(ADD, NOW))


def test_none_can_be_where_none_may_be() -> None:
    assert parsed(tools=[ADD], tool_choice="none") == ChatOptions()


def test_one_of_all_must_be_called() -> None:
    wanted = ChatOptions(tools=(ADD, NOW), tool_choice="required", parallel_tool_calls=True)
    assert parsed(tools=[ADD, NOW], tool_choice="required", parallel_tool_calls=True) == wanted


def test_a_tool_that_must_be_called_stands_alone() -> None:
    choice = {"type": "function", "function": {"name": "now"}}
    wanted = ChatOptions(tools=(NOW,), tool_choice="required", parallel_tool_calls=False)
    assert parsed(tools=[ADD, NOW], tool_choice=choice, parallel_tool_calls=True) == wanted


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_tools_that_are_not_allowed_are_not_there(mode: Any) -> None:
    other = tool("other")
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NOW, ADD]}}
    wanted = ChatOptions(tools=(ADD, NOW), tool_choice=mode)
    assert parsed(tools=[ADD, other, NOW], tool_choice=allowed) == wanted


def allowing(mode: Any, *tools: Any) -> dict[str, Any]:
    allowed = {"mode": mode, "tools": list(tools)}
    return {"tools": [ADD], "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"tools": {}}, "'tools': expected an array"),
        ({"tools": [3]}, "'tools[0]': expected an object"),
        ({"tools": [ADD, {"type": "custom"}]}, "'tools[1].type'"),
        ({"tools": [{"type": "function"}]}, "'tools[0].function': expected an object"),
        ({"tools": [tool(3)]}, "'tools[0].function.name': expected a string"),
        ({"tools": [tool("")]}, "'tools[0].function.name'"),
        ({"tools": [tool("x" * 129)]}, "'tools[0].function.name'"),
        ({"tools": [ADD, ADD]}, "'tools[1].function.name': 'add' stands twice"),
        ({"tools": [tool(description=3)]}, "'tools[0].function.description'"),
        ({"tools": [tool(parameters=[])]}, "'tools[0].function.parameters'"),
        ({"tools": [tool(f"t{n}") for n in range(TOOLS_MAX + 1)]}, "'tools': more than 128"),
        ({"tools": [ADD], "tool_choice": "some"}, "Invalid tool_choice: some"),
        ({"tools": [ADD], "tool_choice": 3}, "'tool_choice': expected a string or an object"),
        ({"tools": [ADD], "tool_choice": {}}, "'tool_choice.type'"),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "rm"}}},
            "'tool_choice.function.name': no tool is called 'rm'",
        ),
        (allowing("any", ADD), "'tool_choice.allowed_tools.mode'"),
        (allowing("auto", "add"), "'tool_choice.allowed_tools.tools[0]'"),
        (allowing("auto", NOW), "no tool is called 'now'"),
        (allowing("required"), "'tool_choice': there are no tools"),
        (allowing("auto", *[ADD] * (TOOLS_MAX + 1)), "'tool_choice.allowed_tools.tools'"),
        ({"tools": [ADD], "tool_choice": {"type": "allowed_tools"}}, "'tool_choice.allowed_tools"),
        ({"tool_choice": "required"}, "'tool_choice': there are no tools"),
        ({"tools": [ADD], "parallel_tool_calls": "no"}, "'parallel_tool_calls'"),
        ({"tools": [ADD], "grammar": "root ::= x"}, "Cannot use custom grammar constraints"),
        ({"tools": [ADD], "logprobs": True, "stream": True}, "'logprobs'"),
    ],
)
def test_a_mistake_names_its_field(body: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parsed(**body)
    assert said in str(refused.value)


def test_what_cannot_be_had_with_tools_can_be_had_without() -> None:
    assert parsed(tools=[ADD], tool_choice="none", grammar="x", logprobs=True) == ChatOptions()
    assert parsed(tools=[ADD], logprobs=True).tools == (ADD,)
