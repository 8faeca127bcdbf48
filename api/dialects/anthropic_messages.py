"""Anthropic's Messages: the request as a chat's, the log as a message. Pure.

Whatever a chat can do is asked for in a chat's words, so that it is done, and refused, in one
place. What the vendor's own servers do (their tools, containers, files) is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from api.dialects import Dialect, Fold, openai_chat
from api.dialects.as_chat import content_of, given, passed_on, text_at
from api.fields import Fields, mistyped
from api.problems import RequestInvalid
from replay import frames
from replay.request import GenerationRequest
from replay.strict_json import call_arguments

MAX_TOKENS = 4096
"""Of a request that does not say, as llama.cpp has it; the vendor insists on a number."""

THINKING_TOKENS = 10_000
"""Of thinking that is enabled without a budget."""

DISPLAYS = ("summarized", "omitted")
AS_THE_MODEL_LIKES = ("adaptive", "between_tools")
"""Kinds of thinking that leave it to the model whether it thinks."""

NOT_BUILT = ("container", "mcp_servers")

CHANGING = re.compile(r"\bcch=\w+")
"""In the first line of a known client's system prompt: it would keep any prompt from the cache."""

Block = tuple[str, dict[str, Any]]
"""A content block beside its name in errors."""


def parse(body: Mapping[str, Any], *, random_seed: int) -> GenerationRequest:
    """See ``api.dialects.Parse``."""
    request = openai_chat.parse(chat_of(body), random_seed=random_seed)
    # An answer goes on from a prefill, and does not repeat it.
    render = replace(
        request.render,
        prefill="",
        prefill_reasoning="",
        omits_thoughts=_display(Fields(body)) == "omitted",
    )
    return replace(request, dialect="anthropic.messages", render=render)


def chat_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat request that means the same. Raises RequestInvalid."""
    fields = Fields(body)
    for name in NOT_BUILT:
        if fields.get(name):
            raise RequestInvalid(f"Field '{name}': not supported")
    fields.object("metadata").text("user_id")
    chat = passed_on(body)
    chat["messages"] = [*_system(fields.get("system")), *_messages(fields.get("messages"))]
    chat["max_tokens"] = fields.bounded("max_tokens", MAX_TOKENS, low=1)
    chat["stop"] = _stop_sequences(fields.get("stop_sequences"))
    chat["tools"] = tools = _tools(fields.get("tools"))
    names = {tool["function"]["name"] for tool in tools or ()}
    chat.update(_tool_choice(fields.object("tool_choice"), names))
    chat.update(_thinking(fields))
    chat.update(_output(fields.object("output_config")))
    return given(chat)


def _stop_sequences(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise mistyped("stop_sequences", "an array of strings", value)
    for index, stop in enumerate(value):
        if not isinstance(stop, str):
            raise mistyped(f"stop_sequences[{index}]", "a string", stop)
    return value


def _system(value: Any) -> Iterator[dict[str, Any]]:
    texts = [_text(name, block) for name, block in _blocks("system", value or [])]
    if texts and texts[0].startswith("x-anthropic-billing-header"):
        texts[0] = CHANGING.sub("cch=0", texts[0])
    if texts:
        yield {"role": "system", "content": content_of(texts)}


def _messages(value: Any) -> Iterator[dict[str, Any]]:
    """Turns of one role in a row are one turn, as the vendor takes them."""
    if value is None:
        raise RequestInvalid("Field 'messages': it is required")
    if not isinstance(value, list):
        raise mistyped("messages", "an array", value)
    turns = [_turn(f"messages[{index}]", message) for index, message in enumerate(value)]
    for role, group in groupby(turns, key=itemgetter(0)):
        yield from _ROLES[role](chain.from_iterable(blocks for _, blocks in group))


def _turn(name: str, message: Any) -> tuple[str, list[Block]]:
    if not isinstance(message, dict):
        raise mistyped(name, "an object", message)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestInvalid(f"Field '{name}.role': must be one of {', '.join(_ROLES)}")
    return role, _blocks(f"{name}.content", message.get("content"))


def _blocks(name: str, content: Any) -> list[Block]:
    if isinstance(content, str):
        return [(name, {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise mistyped(name, "a string or an array", content)
    blocks = [(f"{name}[{index}]", block) for index, block in enumerate(content)]
    for block_name, block in blocks:
        if not isinstance(block, dict):
            raise mistyped(block_name, "an object", block)
    return blocks


def _asked(blocks: Iterable[Block]) -> Iterator[dict[str, Any]]:
    """What a user says, and the results of tools, each a message of its own, in their order."""
    texts: list[str] = []
    has_results = False
    for name, block in blocks:
        if block.get("type") != "tool_result":
            texts.append(_text(name, block))
            continue
        if texts:
            yield {"role": "user", "content": content_of(texts)}
            texts = []
        has_results = True
        yield _tool_result(name, block)
    if texts or not has_results:
        yield {"role": "user", "content": content_of(texts)}


def _tool_result(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    said = _blocks(f"{name}.content", block.get("content") or "")
    return {
        "role": "tool",
        "tool_call_id": text_at(name, block, "tool_use_id"),
        "content": content_of([_text(*part) for part in said]),
    }


def _answered(blocks: Iterable[Block]) -> Iterator[dict[str, Any]]:
    """What an assistant said, in one message: templates have a place for each kind of it."""
    texts, thoughts, calls = [], [], []
    for name, block in blocks:
        match block.get("type"):
            case "thinking":
                thoughts.append(text_at(name, block, "thinking"))
            case "redacted_thinking":
                pass  # nobody but the vendor can read it
            case "tool_use":
                calls.append(_tool_use(name, block))
            case _:
                texts.append(_text(name, block))
    message: dict[str, Any] = {"role": "assistant", "content": content_of(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    yield message


def _tool_use(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise mistyped(f"{name}.input", "an object", arguments)
    function = {"name": text_at(name, block, "name"), "arguments": frames.compact(arguments)}
    return {"id": text_at(name, block, "id"), "type": "function", "function": function}


def _instructed(blocks: Iterable[Block]) -> Iterator[dict[str, Any]]:
    yield {"role": "system", "content": content_of([_text(*block) for block in blocks])}


_ROLES: Mapping[str, Callable[[Iterable[Block]], Iterator[dict[str, Any]]]] = {
    "user": _asked,
    "assistant": _answered,
    "system": _instructed,
}


def _text(name: str, block: Mapping[str, Any]) -> str:
    kind = block.get("type")
    if kind in ("image", "document"):
        raise RequestInvalid(f"Field '{name}': {kind} input is not supported")
    if kind != "text":
        raise RequestInvalid(f"Field '{name}.type': {kind!r:.40} is not supported here")
    return text_at(name, block, "text")


def _tools(value: Any) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise mistyped("tools", "an array", value)
    return [_tool(f"tools[{index}]", tool) for index, tool in enumerate(value)]


def _tool(name: str, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise mistyped(name, "an object", tool)
    if tool.get("type") not in (None, "custom"):
        raise RequestInvalid(f"Field '{name}.type': {tool['type']!r:.40} is not supported")
    schema = tool.get("input_schema")
    if not isinstance(schema, dict):
        raise mistyped(f"{name}.input_schema", "an object", schema)
    fields = Fields(tool, f"{name}.")
    function: dict[str, Any] = {"name": text_at(name, tool, "name"), "parameters": schema}
    if description := fields.text("description"):
        function["description"] = description
    if fields.boolean("strict"):
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(choice: Fields, names: Collection[str]) -> dict[str, Any]:
    """``names`` are those of the tools."""
    kind = choice.get("type")
    if kind is None:
        return {"tool_choice": None}
    name = choice.text("name")
    named = {"type": "function", "function": {"name": name}}
    chosen = {"auto": "auto", "any": "required", "none": "none", "tool": named}
    if not isinstance(kind, str) or kind not in chosen:
        raise RequestInvalid(f"Field 'tool_choice.type': must be one of {', '.join(chosen)}")
    if kind == "tool" and name not in names:
        raise RequestInvalid(f"Field 'tool_choice.name': no tool is called '{name[:40]}'")
    found: dict[str, Any] = {"tool_choice": chosen[kind]}
    if choice.boolean("disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False
    return found


def _thinking(fields: Fields) -> dict[str, Any]:
    thinking = fields.object("thinking")
    kind = thinking.get("type")
    if kind not in (None, *AS_THE_MODEL_LIKES, "enabled", "disabled"):
        known = ", ".join((*AS_THE_MODEL_LIKES, "enabled"))
        raise RequestInvalid(f"Field 'thinking.type': must be {known} or disabled")
    if kind in (None, *AS_THE_MODEL_LIKES):
        return {}
    switch = {"enable_thinking": kind == "enabled"}
    found: dict[str, Any] = {"chat_template_kwargs": switch}
    if isinstance(own := fields.get("chat_template_kwargs"), dict):
        found["chat_template_kwargs"] = {**switch, **own}
    if kind == "enabled":
        budget = thinking.bounded("budget_tokens", THINKING_TOKENS, low=0)
        found["thinking_budget_tokens"] = budget
    return found


def _display(fields: Fields) -> str:
    shown = fields.object("thinking").text("display", DISPLAYS[0])
    if shown not in DISPLAYS:
        raise RequestInvalid(f"Field 'thinking.display': must be {' or '.join(DISPLAYS)}")
    return shown


def _output(output: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if effort := output.text("effort"):
        found["reasoning_effort"] = effort
    form = output.object("format")
    if (kind := form.get("type")) is None:
        return found
    if kind != "json_schema":
        raise RequestInvalid("Field 'output_config.format.type': must be json_schema")
    if form.get("schema") is None:
        raise RequestInvalid("Field 'output_config.format.schema': it is required")
    schema = {"schema": form.get("schema")}
    return {**found, "response_format": {"type": "json_schema", "json_schema": schema}}


class MessageFold(Fold):
    """A stream of Messages as the message of ``stream: false``."""

    def __init__(self, request: GenerationRequest) -> None:
        super().__init__()
        self._message: dict[str, Any] = {}
        self._blocks: list[dict[str, Any]] = []
        self._pieces: list[str] = []

    def take(self, event: dict[str, Any]) -> None:
        """See ``Fold.take``."""
        match event["type"]:
            case "message_start":
                self._message = event["message"]
            case "content_block_start":
                self._blocks.append(event["content_block"])
            case "content_block_delta":
                self._take_delta(event["delta"])
            case "content_block_stop":
                self._close()
            case "message_delta":
                self._message.update(event["delta"])
                self._message["usage"].update(event["usage"])

    def _take_delta(self, delta: dict[str, str]) -> None:
        kind = delta.pop("type")
        [(name, piece)] = delta.items()
        if kind == "signature_delta":
            self._blocks[-1][name] = piece
        else:
            self._pieces.append(piece)

    def _close(self) -> None:
        self._blocks[-1] = self._block_so_far()
        self._pieces = []

    def _block_so_far(self) -> dict[str, Any]:
        block, said = self._blocks[-1], "".join(self._pieces)
        if block["type"] == "tool_use":
            return {**block, "input": call_arguments(said)}
        return {**block, block["type"]: said}

    def answer(self) -> dict[str, Any]:
        """See ``Fold.answer``."""
        return {**self._message, "content": self._blocks}

    def so_far(self) -> dict[str, Any]:
        """See ``Fold.so_far``; the block that is open has what it has."""
        if not self._pieces:
            return self.answer()
        return {**self._message, "content": [*self._blocks[:-1], self._block_so_far()]}


NAMES = {
    r"messages\[\d+\]\.(tool_calls|reasoning_content).*": "messages",
    r"tools\[(\d+)\]\.function\.": r"tools[\1].",
    r"response_format\.json_schema": "output_config.format",
    r"reasoning_effort$": "output_config.effort",
    r"stop$": "stop_sequences",
}
"""What a chat's fields are called here; a turn may have become several messages."""

MESSAGES = Dialect("anthropic.messages", "msg_", parse, MessageFold, NAMES)
