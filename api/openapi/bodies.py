"""What clients send: the fields that are read, and examples of them. Other fields are accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from replay.request import SamplingParams

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean", "default": False}
STRINGS: Schema = {"type": "array", "items": TEXT}
TOKENS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
MODEL: Schema = {**TEXT, "description": "A model or an alias. May be left out where there is one."}
STREAM: Schema = {**FLAG, "description": "Server-sent events instead of one JSON object."}
_NUMBERS = {"int": "integer", "float": "number", "bool": "boolean"}


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON body; ``examples`` are OpenAPI's, by name."""

    schema: Schema
    examples: Mapping[str, Any] = field(default_factory=dict)


def _object(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    found: Schema = {"type": "object", "properties": properties}
    return {**found, "required": list(required)} if required else found


def _examples(**values: Any) -> dict[str, Any]:
    return {name: {"value": value} for name, value in values.items()}


def _integer(low: int, default: int, about: str = "") -> Schema:
    found: Schema = {"type": "integer", "minimum": low, "default": default}
    return {**found, "description": about} if about else found


def _sampling() -> dict[str, Schema]:
    """llama.cpp's sampling parameters, with the defaults that are in force."""
    found: dict[str, Schema] = {}
    for item in fields(SamplingParams):
        kind = _NUMBERS.get(str(item.type))
        if kind and item.default is not MISSING:
            found[item.name] = {"type": kind, "default": item.default}
    found["seed"] = {"type": "integer", "description": "-1 or none: a random one."}
    found["samplers"] = {**STRINGS, "description": "Names, in their order."}
    found["logit_bias"] = {
        "description": "`[[token, bias]]` or `{token: bias}`; a token is an id or a text.",
        "anyOf": [{"type": "array"}, {"type": "object"}],
    }
    del found["logprobs"]  # of another kind in each dialect
    return found


_STOP: Schema = {"anyOf": [TEXT, STRINGS], "description": "Texts that end the answer."}
_MESSAGE = _object(
    ("role",),
    role={**TEXT, "example": "user"},
    content={
        "description": "A text, or parts of text.",
        "anyOf": [TEXT, {"type": "array", "items": {"type": "object"}}, {"type": "null"}],
    },
    tool_calls={"type": "array", "items": {"type": "object"}},
    tool_call_id=TEXT,
)
_MESSAGES: Schema = {"type": "array", "items": _MESSAGE}
_TOOLS: Schema = {
    "type": "array",
    "items": _object(("type", "function"), type={"const": "function"}, function={"type": "object"}),
}
_ADAPTERS: Schema = {
    "type": "array",
    "items": _object(("id",), id={"type": "integer", "minimum": 0}, scale={"type": "number"}),
    "description": "How much of which LoRA adapters; none of those not listed.",
}
_GENERATION: dict[str, Schema] = {
    "model": MODEL,
    "stream": STREAM,
    "stop": _STOP,
    "n": {**_integer(1, 1), "description": "How many answers."},
    "max_tokens": _integer(-1, -1, "-1: until the context is full."),
    "t_max_predict_ms": _integer(-1, -1, "Milliseconds after its first token; -1: no limit."),
    "n_indent": _integer(0, 0, "Blanks before each line but the first; one with less ends it."),
    "stream_options": _object(include_usage=FLAG),
    "timings_per_token": FLAG,
    "return_progress": FLAG,
    "verbose": FLAG,
    "sse_ping_interval": _integer(-1, 15, "Seconds of silence before a comment; -1: never."),
    "cache_prompt": {"type": "boolean", "default": True},
    "n_keep": _integer(-1, 0),
    "n_discard": _integer(0, 0),
    "lora": _ADAPTERS,
    "grammar": {**TEXT, "description": "GBNF."},
    "json_schema": {"type": "object"},
    "response_format": _object(
        type={"enum": ["text", "json_object", "json_schema"]}, json_schema={"type": "object"}
    ),
    **_sampling(),
}
_CHAT = _object(
    ("messages",),
    messages=_MESSAGES,
    max_completion_tokens=_integer(-1, -1),
    tools=_TOOLS,
    tool_choice={"description": "auto, none, required, or a function by name."},
    parallel_tool_calls={"type": "boolean"},
    logprobs=FLAG,
    top_logprobs=_integer(0, 20),
    chat_template_kwargs={"type": "object"},
    add_generation_prompt={"type": "boolean", "default": True},
    continue_final_message={"description": "true, content or reasoning_content."},
    reasoning_effort=TEXT,
    reasoning_format={"enum": ["none", "auto", "deepseek", "deepseek-legacy"]},
    thinking_budget_tokens=_integer(-1, -1),
    reasoning_control={**FLAG, "description": "Lets `/v1/chat/completions/control` end a thought."},
    **_GENERATION,
)
_HELLO = [{"role": "user", "content": "Name three rivers."}]
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
_RIVERS = {
    "type": "object",
    "properties": {"rivers": {"type": "array", "items": {"type": "string"}, "maxItems": 3}},
    "required": ["rivers"],
}
_PROMPT: Schema = {
    "description": "A text, token ids, or an array of these.",
    "anyOf": [TEXT, {"type": "array"}],
}
_INPUT: Schema = {
    "description": "A text, token ids, or an array of these.",
    "anyOf": [TEXT, {"type": "array"}],
}
_NAMES = _object(("conversation_ids",), conversation_ids=STRINGS)
_ANTHROPIC = _object(
    ("messages",),
    model=MODEL,
    messages=_MESSAGES,
    system={"anyOf": [TEXT, {"type": "array"}]},
    max_tokens=_integer(1, 4096),
    stop_sequences=STRINGS,
    stream=STREAM,
    temperature={"type": "number"},
    top_p={"type": "number"},
    top_k={"type": "integer"},
    tools={"type": "array", "items": {"type": "object"}},
    tool_choice={"type": "object"},
    thinking=_object(
        type={"enum": ["enabled", "disabled", "adaptive"]}, budget_tokens=_integer(1, 1)
    ),
)
_RESPONSE = _object(
    ("input",),
    model=MODEL,
    input={"anyOf": [TEXT, {"type": "array", "items": {"type": "object"}}]},
    instructions=TEXT,
    max_output_tokens={"type": "integer", "minimum": 1},
    stream=STREAM,
    background={**FLAG, "description": "Answers at once; the response is read by its id."},
    store={"type": "boolean", "default": True},
    previous_response_id=TEXT,
    reasoning=_object(effort=TEXT),
    text=_object(format={"type": "object"}),
    tools={"type": "array", "items": {"type": "object"}},
    tool_choice={"description": "auto, none, required, or a function by name."},
    temperature={"type": "number"},
    top_p={"type": "number"},
    metadata={"type": "object"},
)

BODIES: Mapping[str, Body] = {
    "chat": Body(
        _CHAT,
        _examples(
            stream={"messages": _HELLO, "stream": True, "max_tokens": 64},
            schema={
                "messages": _HELLO,
                "response_format": {"type": "json_schema", "json_schema": {"schema": _RIVERS}},
            },
            tools={"messages": _HELLO, "tools": [_WEATHER], "tool_choice": "auto"},
        ),
    ),
    "completion": Body(
        _object(("prompt",), prompt=_PROMPT, logprobs=_integer(0, 0), **_GENERATION),
        _examples(stream={"prompt": "The longest river is", "stream": True, "max_tokens": 16}),
    ),
    "native": Body(
        _object(
            ("prompt",),
            prompt=_PROMPT,
            n_predict=_integer(-1, -1),
            return_tokens=FLAG,
            response_fields=STRINGS,
            **_GENERATION,
        ),
        _examples(short={"prompt": "The longest river is", "n_predict": 16}),
    ),
    "infill": Body(
        _object(
            ("input_prefix", "input_suffix"),
            input_prefix=TEXT,
            input_suffix=TEXT,
            input_extra={"type": "array", "items": _object(filename=TEXT, text=TEXT)},
            prompt=TEXT,
            n_predict=_integer(-1, -1),
            **_GENERATION,
        ),
        _examples(code={"input_prefix": "def add(a, b):\n    ", "input_suffix": "\n"}),
    ),
    "messages": Body(
        _ANTHROPIC,
        _examples(
            stream={"model": "smollm2", "max_tokens": 64, "messages": _HELLO, "stream": True}
        ),
    ),
    "response": Body(
        _RESPONSE,
        _examples(
            stream={"input": "Name three rivers.", "stream": True},
            background={"input": "Name three rivers.", "background": True},
        ),
    ),
    "control": Body(
        _object(("id", "action"), id=TEXT, action={"enum": ["reasoning_end"]}),
        _examples(skip={"id": "chatcmpl-4Vn0", "action": "reasoning_end"}),
    ),
    "names": Body(_NAMES, _examples(two={"conversation_ids": ["trip", "recipe"]})),
    "link": Body(
        _object(
            ("conversation_id",),
            conversation_id=TEXT,
            allow={"enum": ["read", "stop"], "default": "read"},
            epoch={"type": "integer", "minimum": 1},
            expires_in_s={"type": "integer", "minimum": 1},
        ),
        _examples(read={"conversation_id": "trip", "expires_in_s": 3600}),
    ),
    "tokenize": Body(
        _object(
            model=MODEL,
            content=TEXT,
            add_special=FLAG,
            parse_special={"type": "boolean", "default": True},
            with_pieces=FLAG,
        ),
        _examples(text={"content": "rivers"}),
    ),
    "detokenize": Body(_object(model=MODEL, tokens=TOKENS), _examples(text={"tokens": [1, 2]})),
    "embeddings": Body(
        _object(
            ("input",),
            model=MODEL,
            input=_INPUT,
            encoding_format={"enum": ["float", "base64"], "default": "float"},
            dimensions={"type": "integer", "minimum": 1},
            embd_normalize={"type": "integer", "default": 2},
        ),
        _examples(two={"input": ["a river", "a lake"]}),
    ),
    "rerank": Body(
        _object(
            ("query", "documents"),
            model=MODEL,
            query=TEXT,
            documents=STRINGS,
            top_n={"type": "integer"},
        ),
        _examples(two={"query": "rivers", "documents": ["The Nile.", "A lake."]}),
    ),
    "slot_file": Body(
        _object(filename={**TEXT, "description": "In the worker's folder. To erase needs none."}),
        _examples(save={"filename": "trip.slot"}, erase={}),
    ),
    "adapters": Body(_ADAPTERS, _examples(half=[{"id": 0, "scale": 0.5}], none=[])),
}
