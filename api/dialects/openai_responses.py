"""OpenAI's Responses: the request as a chat's, the log as a response. Pure.

As in ``anthropic_messages``, a chat's words are used for whatever a chat can do too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from api.dialects import Dialect, Fold, openai_chat
from api.dialects.as_chat import content_of, given, passed_on, text_at
from api.dialects.chat_options import TOOLS_MAX
from api.fields import Fields, mistyped
from api.problems import RequestInvalid
from replay import frames
from replay.request import GenerationRequest

NOT_BUILT = ("context_management", "conversation", "moderation", "prompt")
ASKERS = ("user", "system", "developer")
TRUNCATIONS = ("disabled", "auto")
LOGPROBS = "message.output_text.logprobs"

METADATA_MAX = 16
"""Most pairs of the metadata; a name and a value have at most the characters that follow."""

METADATA_NAME_CHARACTERS_MAX = 64
METADATA_VALUE_CHARACTERS_MAX = 512

REPEATED_BYTES_MAX = 4 << 20
"""What a response says again of its request stands in its log three times."""

Item = tuple[str, dict[str, Any]]
"""An item of the input beside its name in errors."""


def parse(
    body: Mapping[str, Any], *, random_seed: int, before: Sequence[dict[str, Any]] = ()
) -> GenerationRequest:
    """See ``api.dialects.Parse``; ``before`` are the messages of the response that it follows."""
    chat = chat_of(body, before)
    request = openai_chat.parse(chat, random_seed=random_seed)
    repeated = _repeated(Fields(body), request, chat.get("tools", []))
    _check_repeated(repeated)
    # An answer goes on from a prefill, and does not repeat it.
    render = replace(request.render, prefill="", prefill_reasoning="", response=repeated)
    keep: Any = "answer" if repeated["store"] else ""
    if repeated["background"]:
        keep = "generation"
    return replace(request, dialect="openai.responses", render=render, keep=keep)


def asked_of(request: GenerationRequest) -> Sequence[dict[str, Any]]:
    """The messages that a response was asked, and went on from: not its instructions."""
    begin = 0 if request.render.response.get("instructions") is None else 1
    return request.messages[begin:]


def messages_of(request: GenerationRequest, output: list[Any]) -> list[dict[str, Any]]:
    """What a response goes on from that follows this one."""
    return [*asked_of(request), *_input(output)]


def chat_of(body: Mapping[str, Any], before: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The chat request that means the same. Raises RequestInvalid."""
    fields = Fields(body)
    for name in NOT_BUILT:
        if fields.get(name):
            raise RequestInvalid(f"Field '{name}': not supported yet")
    if fields.text("truncation", "disabled") not in TRUNCATIONS:
        raise RequestInvalid(f"Field 'truncation': must be {' or '.join(TRUNCATIONS)}")
    chat = passed_on(body)
    instructions, asked = _instructions(fields.get("instructions")), _input(fields.get("input"))
    chat["messages"] = [*instructions, *before, *asked]
    if fields.get("max_output_tokens") is not None:
        chat["max_tokens"] = fields.bounded("max_output_tokens", -1, low=1)
    if effort := fields.object("reasoning").text("effort"):
        chat["reasoning_effort"] = effort
    chat.update(_logprobs(fields))
    chat.update(_text_format(fields.object("text").object("format")))
    chat.update(_tools(fields))
    return given(chat)


def _instructions(value: Any) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    if not isinstance(value, str):
        raise mistyped("instructions", "a string", value)
    yield {"role": "system", "content": value}


def _input(value: Any) -> Iterator[dict[str, Any]]:
    """What an assistant said, thought and called in a row is one message, as templates have it."""
    if value is None:
        raise RequestInvalid("Field 'input': it is required")
    if isinstance(value, str):
        yield {"role": "user", "content": value}
        return
    if not isinstance(value, list):
        raise mistyped("input", "a string or an array", value)
    items = [(f"input[{index}]", item) for index, item in enumerate(value)]
    for is_answer, group in groupby(items, key=_is_answer):
        if is_answer:
            yield _answered(group)
        else:
            yield from (_asked(*item) for item in group)


def _is_answer(named: Item) -> bool:
    name, item = named
    if not isinstance(item, dict):
        raise mistyped(name, "an object", item)
    return item.get("type") in ("function_call", "reasoning") or item.get("role") == "assistant"


def _asked(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    if item.get("type") == "function_call_output":
        texts = _texts(f"{name}.output", item.get("output"), "input_text")
        call = "" if item.get("call_id") is None else text_at(name, item, "call_id")
        return {"role": "tool", "tool_call_id": call, "content": content_of(texts)}
    if item.get("type", "message") != "message" or item.get("role") not in ASKERS:
        raise RequestInvalid(f"Field '{name}': Cannot determine type of 'item'")
    role = "user" if item["role"] == "user" else "system"
    texts = _texts(f"{name}.content", item.get("content"), "input_text")
    return {"role": role, "content": content_of(texts)}


def _answered(items: Iterator[Item]) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for name, item in items:
        match item.get("type", "message"):
            case "reasoning":
                thoughts.append(_thought(name, item))
            case "function_call":
                calls.append(_call(name, item))
            case "message":
                texts += _texts(f"{name}.content", item.get("content"), "output_text")
            case _:
                raise RequestInvalid(f"Field '{name}': Cannot determine type of 'item'")
    message: dict[str, Any] = {"role": "assistant", "content": content_of(texts)}
    if thought := "".join(thoughts):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def _call(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    function = {key: text_at(name, item, key) for key in ("name", "arguments")}
    return {"id": text_at(name, item, "call_id"), "type": "function", "function": function}


def _thought(name: str, item: Mapping[str, Any]) -> str:
    """What the model thought, or where only its vendor can read that, the summary."""
    for key in ("content", "summary"):
        parts = item.get(key) or []
        if not isinstance(parts, list):
            raise mistyped(f"{name}.{key}", "an array", parts)
        named = [(f"{name}.{key}[{index}]", part) for index, part in enumerate(parts)]
        for part_name, part in named:
            if not isinstance(part, dict):
                raise mistyped(part_name, "an object", part)
        if named:
            return "".join(text_at(part_name, part, "text") for part_name, part in named)
    return ""


def _texts(name: str, content: Any, kind: str) -> list[str]:
    """The texts of parts that may be text only. ``kind``: the type of such a part."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise mistyped(name, "a string or an array", content)
    return [_part(f"{name}[{index}]", part, kind) for index, part in enumerate(content)]


def _part(name: str, part: Any, kind: str) -> str:
    if not isinstance(part, dict):
        raise mistyped(name, "an object", part)
    match part.get("type"):
        case "refusal" if kind == "output_text":
            return text_at(name, part, "refusal")
        case "input_image":
            raise RequestInvalid(f"Field '{name}': image input is not supported")
        case "input_file" | "input_audio" as other:
            raise RequestInvalid(f"Field '{name}': '{other}' is not supported")
        case found if found != kind:
            raise RequestInvalid(f"Field '{name}.type': must be '{kind}'")
    return text_at(name, part, "text")


def _logprobs(fields: Fields) -> dict[str, Any]:
    include = fields.get("include") or []
    if not isinstance(include, list) or not all(isinstance(one, str) for one in include):
        raise mistyped("include", "an array of strings", include)
    top = fields.bounded("top_logprobs", 0, low=0)
    if LOGPROBS not in include and not top:
        return {}
    return {"logprobs": True, "top_logprobs": top}


def _text_format(form: Fields) -> dict[str, Any]:
    match form.get("type"):
        case None | "text":
            return {}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            if form.get("schema") is None:
                raise RequestInvalid("Field 'text.format.schema': it is required")
            told = given({key: form.get(key) for key in ("name", "schema", "strict")})
            return {"response_format": {"type": "json_schema", "json_schema": told}}
        case _:
            raise RequestInvalid(
                "Field 'text.format.type': must be text, json_object or json_schema"
            )


def _tools(fields: Fields) -> dict[str, Any]:
    """Functions as a chat has them. What only the vendor can run is not offered to the model."""
    tools = [] if fields.get("tools") is None else fields.get("tools")
    if not isinstance(tools, list):
        raise mistyped("tools", "an array", tools)
    named = [(f"tools[{index}]", tool) for index, tool in enumerate(tools)]
    for name, tool in named:
        if not isinstance(tool, dict):
            raise mistyped(name, "an object", tool)
    offered = [(name, tool) for name, tool in named if tool.get("type") == "function"]
    choice, names = _tool_choice(fields.get("tool_choice"))
    functions = [_function(name, tool) for name, tool in offered]
    if names is not None:
        functions = [one for one in functions if one["function"]["name"] in names]
    return {"tools": functions or None, "tool_choice": choice}


def _function(name: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    fields = Fields(tool, f"{name}.")
    function: dict[str, Any] = {"name": text_at(name, tool, "name")}
    if description := fields.text("description"):
        function["description"] = description
    fields.object("parameters")
    function["parameters"] = fields.get("parameters") or {}
    function["strict"] = fields.boolean("strict", True)
    return {"type": "function", "function": function}


def _tool_choice(value: Any) -> tuple[Any, list[str] | None]:
    """The choice in a chat's words, and the names of the only functions that are allowed."""
    if value is None or isinstance(value, str):
        return value, None
    if not isinstance(value, dict):
        raise mistyped("tool_choice", "a string or an object", value)
    match value.get("type"):
        case "function":
            name = text_at("tool_choice", value, "name")
            return {"type": "function", "function": {"name": name}}, None
        case "allowed_tools" if isinstance(tools := value.get("tools"), list):
            if len(tools) > TOOLS_MAX:  # each of the functions is looked for among them
                raise RequestInvalid(f"Field 'tool_choice.tools': more than {TOOLS_MAX}")
            named = [tool.get("name") for tool in tools if isinstance(tool, dict)]
            return value.get("mode", "auto"), [name for name in named if isinstance(name, str)]
    raise RequestInvalid("Field 'tool_choice.type': must be function or allowed_tools")


def _repeated(
    fields: Fields, request: GenerationRequest, tools: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the response says again of its request, where the vendor's does."""
    sampling = request.sampling
    offered = [{"type": "function", **tool["function"]} for tool in tools]
    chosen = fields.get("tool_choice")
    reasoning = fields.object("reasoning")
    return {
        "background": fields.boolean("background"),
        "instructions": fields.get("instructions"),
        "max_output_tokens": fields.get("max_output_tokens"),
        "metadata": _metadata(fields.get("metadata")),
        "parallel_tool_calls": fields.boolean("parallel_tool_calls", True),
        "previous_response_id": fields.text("previous_response_id") or None,
        "prompt_cache_key": fields.text("prompt_cache_key") or None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "safety_identifier": fields.text("safety_identifier") or None,
        "store": fields.boolean("store", True),
        "temperature": sampling.temperature,
        "text": {"format": fields.object("text").get("format") or {"type": "text"}},
        "tool_choice": "auto" if chosen is None else chosen,
        "tools": offered,
        "top_logprobs": sampling.n_probs,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "user": fields.text("user") or None,
    }


def _metadata(value: Any) -> dict[str, str]:
    """The client's notes, as many as the vendor takes."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise mistyped("metadata", "an object", value)
    if len(value) > METADATA_MAX:
        raise RequestInvalid(f"Field 'metadata': more than {METADATA_MAX} pairs")
    for name, note in value.items():
        if len(name) > METADATA_NAME_CHARACTERS_MAX:
            raise RequestInvalid(
                f"Field 'metadata': a name has more than {METADATA_NAME_CHARACTERS_MAX} characters"
            )
        if not isinstance(note, str):
            raise mistyped(f"metadata.{name}", "a string", note)
        if len(note) > METADATA_VALUE_CHARACTERS_MAX:
            raise RequestInvalid(
                f"Field 'metadata.{name}': more than {METADATA_VALUE_CHARACTERS_MAX} characters"
            )
    return value


def _check_repeated(repeated: Mapping[str, Any]) -> None:
    """Raises RequestInvalid where it is too much, and names the largest part."""
    sizes = {name: len(frames.compact(value).encode()) for name, value in repeated.items()}
    if sum(sizes.values()) > REPEATED_BYTES_MAX:
        largest = max(sizes, key=lambda name: sizes[name])
        raise RequestInvalid(
            f"Field '{largest}': a response repeats at most {REPEATED_BYTES_MAX} bytes"
        )


class ResponseFold(Fold):
    """A stream of Responses as the response so far; its last event has it whole."""

    def __init__(self, request: GenerationRequest) -> None:
        super().__init__()
        self._response: dict[str, Any] = {}
        self._items: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, list[str]] = {}

    def take(self, event: dict[str, Any]) -> None:
        """See ``Fold.take``."""
        self._response = event.get("response", self._response)
        if "item" in event:
            self._items[event["output_index"]] = event["item"]
        elif event["type"].endswith(".delta"):
            self._texts.setdefault(event["output_index"], []).append(event["delta"])

    def answer(self) -> dict[str, Any]:
        """See ``Fold.answer``."""
        if self._response.get("output"):
            return self._response
        return {**self._response, "output": [self._item(at) for at in sorted(self._items)]}

    def _item(self, index: int) -> dict[str, Any]:
        """An item that is not done yet has the text that came."""
        item, text = self._items[index], "".join(self._texts.get(index, ()))
        if item["status"] != "in_progress":
            return item
        if item["type"] == "function_call":
            return {**item, "arguments": text}
        kind = "reasoning_text" if item["type"] == "reasoning" else "output_text"
        part: dict[str, Any] = {"type": kind, "text": text}
        if kind == "output_text":
            part |= {"annotations": [], "logprobs": []}
        return {**item, "content": [part]}


NAMES = {
    r"messages(\[.*)?$": "input",
    r"tools\[(\d+)\]\.function\.": r"tools[\1].",
    r"tool_choice\.function\.name": "tool_choice.name",
    r"response_format\.json_schema": "text.format",
    r"response_format": "text.format",
    r"reasoning_effort$": "reasoning.effort",
}
"""What a chat's fields are called here; an item may have become a part of a message."""

RESPONSES = Dialect("openai.responses", "resp_", parse, ResponseFold, NAMES)
