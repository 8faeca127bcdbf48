"""What a chat gives its template beside the messages: tools, variables. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.fields import Fields, mistyped
from api.problems import RequestInvalid
from api.reasoning import effort_variables
from replay.request import ChatOptions

TEMPLATE_OWN = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "range"}
)
"""What templates are given anyway, and no client may give otherwise."""

TOOLS_MAX = 128
TOOL_NAME_CHARACTERS_MAX = 128


def parse_options(fields: Fields) -> ChatOptions:
    """The options. Raises RequestInvalid."""
    options = ChatOptions(
        tools=_tools(fields.get("tools")),
        parallel_tool_calls=_optional_boolean(fields, "parallel_tool_calls"),
        template_kwargs={
            **effort_variables(fields),
            **_template_kwargs(fields.get("chat_template_kwargs")),
        },
        add_generation_prompt=fields.boolean("add_generation_prompt", True),
    )
    options = _with_choice(options, fields.get("tool_choice"))
    if options.tools:
        _check_alone(fields)
    return options


def _check_alone(fields: Fields) -> None:
    """What cannot be had together with tools."""
    if fields.get("grammar"):
        raise RequestInvalid("Cannot use custom grammar constraints with tools. (Field 'grammar')")
    if fields.boolean("stream") and fields.boolean("logprobs"):
        raise RequestInvalid("Field 'logprobs': not with tools in a stream")


def _tools(tools: Any) -> tuple[dict[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise mistyped("tools", "an array", tools)
    if len(tools) > TOOLS_MAX:
        raise RequestInvalid(f"Field 'tools': more than {TOOLS_MAX}")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = _checked_name(f"tools[{index}]", tool)
        if name in names:
            raise RequestInvalid(f"Field 'tools[{index}].function.name': '{name}' stands twice")
        names.add(name)
    return tuple(tools)


def _checked_name(where: str, tool: Any) -> str:
    if not isinstance(tool, dict):
        raise mistyped(where, "an object", tool)
    if tool.get("type") != "function":
        raise RequestInvalid(f"Field '{where}.type': must be 'function'")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise mistyped(f"{where}.function", "an object", function)
    fields = Fields(function, f"{where}.function.")
    name = fields.text("name")
    if not 0 < len(name) <= TOOL_NAME_CHARACTERS_MAX:
        raise RequestInvalid(
            f"Field '{where}.function.name': must have 1 to {TOOL_NAME_CHARACTERS_MAX} characters"
        )
    fields.text("description")
    fields.object("parameters")
    return name


def _with_choice(options: ChatOptions, choice: Any) -> ChatOptions:
    """None of the tools, or the only one that may be called, where that is the choice."""
    if choice in (None, "auto"):
        return options
    if choice == "none":
        return replace(options, tools=())
    if choice == "required":
        if not options.tools:
            raise RequestInvalid("Field 'tool_choice': there are no tools to call")
        return replace(options, tool_choice="required")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _with_allowed(options, Fields(choice, "tool_choice.").object("allowed_tools"))
    if isinstance(choice, dict):
        return replace(
            options,
            tools=(_named(options.tools, choice),),
            tool_choice="required",
            parallel_tool_calls=False,
        )
    if isinstance(choice, str):
        raise RequestInvalid(f"Invalid tool_choice: {choice[:40]} (Field 'tool_choice')")
    raise mistyped("tool_choice", "a string or an object", choice)


def _with_allowed(options: ChatOptions, allowed: Fields) -> ChatOptions:
    """Some of the tools alone, of which one may or must be called."""
    named, field = allowed.get("tools"), "tool_choice.allowed_tools"
    if not isinstance(named, list):
        raise mistyped(f"{field}.tools", "an array", named)
    if len(named) > TOOLS_MAX:  # each is looked for among the tools
        raise RequestInvalid(f"Field '{field}.tools': more than {TOOLS_MAX}")
    mode = allowed.text("mode")
    if mode not in ("auto", "required"):
        raise RequestInvalid(f"Field '{field}.mode': must be auto or required")
    for index, tool in enumerate(named):
        if not isinstance(tool, dict):
            raise mistyped(f"{field}.tools[{index}]", "an object", tool)
    names = {_named(options.tools, tool)["function"]["name"] for tool in named}
    tools = tuple(tool for tool in options.tools if tool["function"]["name"] in names)
    return _with_choice(replace(options, tools=tools), mode)


def _named(tools: tuple[dict[str, Any], ...], choice: Mapping[str, Any]) -> dict[str, Any]:
    if choice.get("type") != "function":
        raise RequestInvalid("Field 'tool_choice.type': must be 'function'")
    name = Fields(choice, "tool_choice.").object("function").text("name")
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    raise RequestInvalid(f"Field 'tool_choice.function.name': no tool is called '{name[:40]}'")


def _optional_boolean(fields: Fields, name: str) -> bool | None:
    return None if fields.get(name) is None else fields.boolean(name)


def _template_kwargs(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise mistyped("chat_template_kwargs", "an object", value)
    for name in sorted(TEMPLATE_OWN & value.keys()):
        raise RequestInvalid(f"Field 'chat_template_kwargs.{name}': it is the template's own")
    Fields(value, "chat_template_kwargs.").boolean("enable_thinking")
    return value
