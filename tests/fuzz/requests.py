"""One request at random, of any dialect, with at most 16 tokens to generate. Pure.

The same seed and number make the same request again. Most values are what a client may send, many
at the edge of what makes sense, and some are of a type that makes none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.bootstrap import MODEL

TOKENS_MAX = 16
RUBBISH: tuple[Any, ...] = (None, True, "", "x", -1, 0, 0.5, 2**31, -(2**63), 1e308, [], [0], {})
RUBBISH_SHARE = 0.04
NAMED_SHARE = 0.2
LEAVING_SHARE = 0.05
NAMES = ("fuzz-1", "fuzz-2", "fuzz-3")
IF_BUSY = ("", "replace", "attach", "reject")

TEXTS = (
    "",
    " ",
    "Count to ten.",
    "Say something in Chinese.",
    "<|im_end|><|im_start|>system\n",
    "\u0000\ufffd🚲e\u0301語\r\n",
    '{"a": [1, 2',
    "The quick brown fox jumps over the lazy dog. " * 4,
)
SAMPLERS = [
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
    "infill",
    "adaptive_p",
]
GRAMMARS = (
    'root ::= "yes" | "no"',
    'root ::= [0-9]{1,3} ("." [0-9]{2})?',
    'root ::= "a" root | "b"',
    "root ::= ",
    "root ::= missing",
    'root ::= ("" )*',
)
SCHEMAS: tuple[Any, ...] = (
    {},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "array", "items": {"enum": ["x", 1, None]}, "minItems": 1, "maxItems": 3},
    {"type": "number", "minimum": 0.5},
    {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}},
    {"type": "hiccup"},
    {"type": "string", "pattern": "^[a-z]{2,4}$"},
)
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": SCHEMAS[1], "description": "Tells."},
}

Value = Callable[[random.Random], Any]


def among(*values: Any) -> Value:
    """One of these."""
    return lambda choice: choice.choice(values)


def between(low: float, high: float) -> Value:
    """A number, at times at either end."""
    return lambda choice: choice.choice([low, high, round(choice.uniform(low, high), 4)])


def whole(low: int, high: int) -> Value:
    """The same for integers."""
    return lambda choice: choice.choice([low, high, choice.randint(low, high)])


def some(of: tuple[Any, ...] | list[Any], most: int) -> Value:
    """A list of these, repetitions too."""
    return lambda choice: choice.choices(of, k=choice.randint(0, most))


SAMPLING: Mapping[str, Value] = {
    "temperature": between(-1, 5),
    "dynatemp_range": between(0, 5),
    "dynatemp_exponent": between(0, 10),
    "top_k": whole(-1, 100_000),
    "top_p": between(-0.1, 1.1),
    "min_p": between(0, 1),
    "top_n_sigma": between(-1, 5),
    "typical_p": between(0, 1),
    "xtc_probability": between(0, 1),
    "xtc_threshold": between(0, 1),
    "repeat_last_n": whole(0, 5000),
    "repeat_penalty": between(0, 5),
    "presence_penalty": between(-2, 2),
    "frequency_penalty": between(-1000, 1000),
    "dry_multiplier": between(0, 5),
    "dry_base": between(0, 5),
    "dry_allowed_length": whole(0, 50),
    "dry_penalty_last_n": whole(0, 5000),
    "dry_sequence_breakers": among(["\n", " "], ["the ", "語"], ["語"], []),
    "mirostat": whole(0, 2),
    "mirostat_tau": between(0, 20),
    "mirostat_eta": between(0, 2),
    "adaptive_target": between(-1, 1),
    "adaptive_decay": between(0, 0.99),
    "min_keep": whole(0, 1000),
    "samplers": lambda choice: "".join(choice.choices(SAMPLERS, k=choice.randint(0, 12))),
    "seed": whole(-1, 2**33),
    "logit_bias": among({"5": 100}, {"the": -100}, [[1, False]], [[0, 1e6], [49151, -3]], {}),
    "ignore_eos": among(True, False),
    "stop": some(["\n", "a", "<|im_end|>", "語", " the"], 3),
    "n_probs": whole(0, 100),
    "post_sampling_probs": among(True, False),
    "n_keep": whole(-1, 300),
    "cache_prompt": among(True, False),
    "n": whole(1, 3),
    "grammar": among(*GRAMMARS),
    "json_schema": among(*SCHEMAS),
    "timings_per_token": among(True, False),
    "return_progress": among(True, False),
    "sse_ping_interval": whole(-1, 30),
    "reasoning_budget_tokens": whole(-1, 20),
    "reasoning_control": among(True, False),
    "t_max_predict_ms": whole(-1, 1000),
    "n_indent": whole(0, 4),
    "response_fields": some(["content", "timings/prompt_n", "missing"], 3),
}
CHAT: Mapping[str, Value] = {
    **SAMPLING,
    "logprobs": among(True, False),
    "top_logprobs": whole(0, 20),
    "response_format": lambda choice: choice.choice(
        [
            {"type": "text"},
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"schema": choice.choice(SCHEMAS)}},
        ]
    ),
    "tools": some([TOOL], 2),
    "tool_choice": among("auto", "none", "required"),
    "stream_options": among({"include_usage": True}, {}),
    "continue_final_message": among(True, False),
    "add_generation_prompt": among(True, False),
    "reasoning_effort": among("none", "low", "high"),
}
EMBEDDING: Mapping[str, Value] = {
    "encoding_format": among("float", "base64"),
    "dimensions": whole(1, 600),
    "embd_normalize": whole(-1, 100),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; ``leaves`` after the first bytes."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    leaves: bool = False


def request_of(seed: int, number: int) -> Asked:
    """The request with this number."""
    choice = random.Random(f"{seed}/{number}")
    path, make = choice.choice(KINDS)
    body = make(choice)
    if "stream" not in body and path not in ("/v1/embeddings", "/tokenize"):
        body["stream"] = choice.random() < 0.5
    headers = {}
    if choice.random() < NAMED_SHARE:
        headers["X-Conversation-Id"] = choice.choice(NAMES)
        if_busy = choice.choice(IF_BUSY)
        path += f"?if_busy={if_busy}" if if_busy else ""
    return Asked(path, body, headers, leaves=choice.random() < LEAVING_SHARE)


def _fields(choice: random.Random, known: Mapping[str, Value]) -> dict[str, Any]:
    """A few fields; each is rubbish at times."""
    names = choice.sample(sorted(known), k=min(len(known), choice.randint(0, 8)))
    return {
        name: choice.choice(RUBBISH) if choice.random() < RUBBISH_SHARE else known[name](choice)
        for name in names
    }


def _messages(choice: random.Random) -> list[dict[str, Any]]:
    roles = choice.choice(
        [["user"], ["system", "user"], ["user", "assistant", "user"], ["user", "assistant"]]
    )
    return [{"role": role, "content": choice.choice(TEXTS)} for role in roles]


def _chat(choice: random.Random) -> dict[str, Any]:
    asked = {"messages": _messages(choice), **_fields(choice, CHAT)}
    return {**asked, "max_tokens": choice.randint(0, TOKENS_MAX)}


def _prompt(choice: random.Random) -> Any:
    tokens = [choice.randint(0, 49151) for _ in range(choice.randint(0, 40))]
    return choice.choice([choice.choice(TEXTS), tokens, [*tokens, choice.choice(TEXTS)]])


def _completion(choice: random.Random) -> dict[str, Any]:
    asked = {"prompt": _prompt(choice), **_fields(choice, SAMPLING)}
    return {**asked, "max_tokens": choice.randint(0, TOKENS_MAX)}


def _responses(choice: random.Random) -> dict[str, Any]:
    fields = _fields(choice, {name: SAMPLING[name] for name in ("temperature", "top_p", "seed")})
    asked = {"model": MODEL, "input": choice.choice([choice.choice(TEXTS), _messages(choice)])}
    return {**asked, **fields, "max_output_tokens": choice.randint(1, TOKENS_MAX)}


def _anthropic(choice: random.Random) -> dict[str, Any]:
    fields = _fields(choice, {name: SAMPLING[name] for name in ("temperature", "top_p", "top_k")})
    messages = [one for one in _messages(choice) if one["role"] != "system"]
    asked = {"model": MODEL, "messages": messages, **fields}
    return {**asked, "max_tokens": choice.randint(1, TOKENS_MAX)}


def _embedding(choice: random.Random) -> dict[str, Any]:
    inputs = [_prompt(choice) for _ in range(choice.randint(0, 3))]
    return {"input": choice.choice([inputs, _prompt(choice)]), **_fields(choice, EMBEDDING)}


def _tokenize(choice: random.Random) -> dict[str, Any]:
    return {"content": choice.choice([*TEXTS, *RUBBISH]), "with_pieces": choice.random() < 0.5}


KINDS: tuple[tuple[str, Callable[[random.Random], dict[str, Any]]], ...] = (
    *[("/v1/chat/completions", _chat)] * 8,
    *[("/completion", _completion)] * 4,
    *[("/v1/completions", _completion)] * 2,
    ("/v1/responses", _responses),
    ("/v1/messages", _anthropic),
    ("/v1/embeddings", _embedding),
    ("/tokenize", _tokenize),
)
