"""Requests as the vendors' own SDKs let a program write them, drawn from the SDKs' types.

A type says less than a vendor's server wants (ranges, what belongs together) and more than is
offered here (images, the vendor's own tools): a ``Vendor`` says both, and nothing else is left out.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import (
    IO,
    Annotated,
    Any,
    Literal,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import typing_extensions
from anthropic.types import message_count_tokens_params, message_create_params
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import input_token_count_params, response_create_params

Body = dict[str, Any]

LIST_MAX = 3
WORDS = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
PLAIN: Mapping[Any, SearchStrategy[Any]] = {
    str: WORDS,
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
    object: JSON,
}
UNIONS = (Union, types.UnionType)
REQUIRED = (Required, typing_extensions.Required)


@dataclass(frozen=True)
class Vendor:
    """What an SDK may send that should be answered.

    ``kinds`` are the values of ``type`` that are offered, ``roles`` those of ``role``; empty for
    all there are. Of the fields ``without`` none is drawn, those that it ``needs`` always, and
    those of ``fields`` from there, wherever they stand. ``coherent`` takes back what does not go
    together.
    """

    request: Any
    kinds: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    fields: Mapping[str, SearchStrategy[Any]] = field(default_factory=dict)
    coherent: Callable[[Body], Body] = lambda body: body

    def requests(self) -> SearchStrategy[Body]:
        """The bodies."""
        return self._drawn(self.request).map(self.coherent)

    def _drawn(self, kind: Any) -> SearchStrategy[Any]:
        if kind in PLAIN:
            return PLAIN[kind]
        origin, inner = get_origin(kind), get_args(kind)
        if origin in UNIONS:
            return st.one_of([self._drawn(one) for one in inner if self._is_offered(one)])
        if origin is Literal:
            return st.sampled_from([one for one in inner if one in self.kinds] or inner)
        if origin in (Annotated, *REQUIRED):
            return self._drawn(inner[0])
        if origin is dict:
            return st.dictionaries(WORDS, self._drawn(inner[1]), max_size=LIST_MAX)
        if origin is not None:
            return st.lists(st.deferred(lambda: self._drawn(inner[0])), max_size=LIST_MAX)
        return st.deferred(lambda: self._drawn_fields(kind))

    def _drawn_fields(self, kind: Any) -> SearchStrategy[Body]:
        hints = get_type_hints(kind, include_extras=True)
        drawn = {
            name: self.fields[name] if name in self.fields else self._drawn(hint)
            for name, hint in hints.items()
            if name not in self.without
        }
        needed = {name for name in drawn if get_origin(hints[name]) in REQUIRED} | (
            self.needs & drawn.keys()
        )
        return st.fixed_dictionaries(
            {name: drawn[name] for name in needed},
            optional={name: drawn[name] for name in drawn.keys() - needed},
        )

    def _is_offered(self, kind: Any) -> bool:
        """The SDKs turn models, files and bytes into what other types of theirs say."""
        origin, inner = get_origin(kind), get_args(kind)
        if origin in UNIONS:
            return any(map(self._is_offered, inner))
        if origin is Annotated:
            return self._is_offered(inner[0])
        if origin is not None or kind in PLAIN:
            return origin not in (IO, PathLike)
        if not typing_extensions.is_typeddict(kind):
            return False
        hints = get_type_hints(kind)
        tags = (("type", self.kinds), ("role", self.roles))
        said = [(_literals(hints[name]), offered) for name, offered in tags if name in hints]
        return all(offered & values for values, offered in said if offered)


def _literals(hint: Any) -> set[Any]:
    """The values that an annotation names, whether it may be None too or not."""
    kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal]
    return {value for kind in kinds for value in get_args(kind)}


USER = {"role": "user", "content": "?"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
PROMPTS = WORDS.filter(bool) | st.lists(st.integers(0, 255), min_size=1, max_size=4)
NAMES = st.sampled_from(["look", "add"])
ALLOWED_TOOLS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["auto", "required"]),
        "tools": st.lists(
            st.builds(lambda name: {"type": "function", "function": {"name": name}}, NAMES),
            min_size=1,
            max_size=LIST_MAX,
        ),
    }
)
LIMITS: Mapping[str, SearchStrategy[Any]] = {
    "model": st.just("scripted"),
    "max_tokens": st.integers(1, 8),
    "max_completion_tokens": st.integers(1, 8),
    "max_output_tokens": st.integers(1, 8),
}
"""A short answer of the one model that there is."""

SHARED: Mapping[str, SearchStrategy[Any]] = {
    **LIMITS,
    "name": NAMES,
    "temperature": st.floats(0, 1),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 100),
    "top_logprobs": st.integers(0, 20),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "n": st.integers(1, 4),
    "budget_tokens": st.integers(1024, 4096),
    "logit_bias": st.dictionaries(st.integers(0, 255).map(str), st.integers(-100, 100), max_size=2),
    "schema": st.just(SCHEMA),
    "input_schema": st.just(SCHEMA),
    "parameters": st.just(SCHEMA),
}
"""What every vendor's server wants of these fields."""


def named(tool: Mapping[str, Any]) -> str | None:
    """What a tool, or the choice of one, is called."""
    name: str | None = tool.get("function", tool).get("name")
    return name


def chosen(choice: Any) -> set[str | None]:
    """The tools that a choice names."""
    if not isinstance(choice, dict):
        return set()
    allowed = choice.get("allowed_tools", {"tools": [choice]})
    return {named(tool) for tool in allowed["tools"]} - {None}


def with_tools(body: Body) -> Body:
    """Each tool once, and a choice among those that there are."""
    tools = {named(tool): tool for tool in body.get("tools") or ()}
    if tools:
        body["tools"] = list(tools.values())
    if not tools or not chosen(body.get("tool_choice")) <= tools.keys():
        body.pop("tool_choice", None)
    return body


def chat(body: Body) -> Body:
    """The user asks last, an assistant has said something, and probabilities are asked for."""
    for message in body["messages"]:
        is_silent = message.get("content") is None and message.get("refusal") is None
        if message["role"] == "assistant" and is_silent:
            message["content"] = ""
    body["messages"] = [*body["messages"], USER]
    if not body.get("logprobs") or body.get("tools"):
        body = {**body, "logprobs": False, "top_logprobs": None}
    return with_tools(body)


def turns(body: Body) -> Body:
    """Each role has the blocks that it may have, and the user asks last."""
    results = ("text", "tool_result")
    for message in body["messages"]:
        if isinstance(blocks := message["content"], list):
            message["content"] = [
                block
                for block in blocks
                if block["type"] == "text"
                or (block["type"] in results) == (message["role"] == "user")
            ]
    body["messages"] = [*body["messages"], USER]
    return with_tools(body)


def items(body: Body) -> Body:
    """The user asks last, and something; no probabilities are wanted beside calls."""
    body["input"] = "?" if body["input"] is None else body["input"]
    if isinstance(body["input"], list):
        for item in body["input"]:
            if item.get("role") == "assistant" and isinstance(parts := item["content"], list):
                item["content"] = [part for part in parts if part["type"] != "input_text"]
        body["input"] = [*body["input"], USER]
    if body.get("tools"):
        body = {**body, "include": None, "top_logprobs": None}
    if isinstance(choice := body.get("tool_choice"), dict) and "tools" in choice:
        choice["tools"] = body.get("tools")
    return with_tools(body)


CHAT = Vendor(
    chat_create_params.CompletionCreateParams,
    kinds=frozenset({"text", "refusal", "function", "allowed_tools", "json_object", "json_schema"}),
    roles=frozenset({"developer", "system", "user", "assistant", "tool"}),
    without=frozenset(
        {
            *("functions", "function_call", "audio", "modalities", "prediction"),
            *("moderation", "web_search_options"),
        }
    ),
    fields={**SHARED, "allowed_tools": ALLOWED_TOOLS},
    coherent=chat,
)
MESSAGES = Vendor(
    message_create_params.MessageCreateParams,
    kinds=frozenset(
        {
            *("text", "thinking", "redacted_thinking", "tool_use", "tool_result"),
            *("custom", "auto", "any", "none", "tool"),
            *("enabled", "disabled", "adaptive", "between_tools", "json_schema", "ephemeral"),
        }
    ),
    without=frozenset({"container", "citations", "caller"}),
    fields=SHARED,
    coherent=turns,
)
RESPONSES = Vendor(
    response_create_params.ResponseCreateParams,
    kinds=frozenset(
        {
            *("message", "function_call", "function_call_output", "reasoning"),
            *("input_text", "output_text", "refusal", "reasoning_text", "summary_text"),
            *("function", "allowed_tools", "text", "json_object", "json_schema"),
        }
    ),
    without=frozenset(
        {
            *("context_management", "conversation", "moderation", "prompt"),
            *("annotations", "previous_response_id"),
        }
    ),
    needs=frozenset({"input"}),
    fields=SHARED,
    coherent=items,
)
COMPLETIONS = Vendor(
    completion_create_params.CompletionCreateParams,
    without=frozenset({"suffix", "echo"}),
    fields={
        **SHARED,
        "prompt": PROMPTS,
        "best_of": st.none() | st.just(1),
        "logprobs": st.none() | st.integers(0, 5),
    },
)
COUNT_TOKENS = replace(MESSAGES, request=message_count_tokens_params.MessageCountTokensParams)
INPUT_TOKENS = replace(RESPONSES, request=input_token_count_params.InputTokenCountParams)
EMBEDDINGS = Vendor(
    embedding_create_params.EmbeddingCreateParams,
    fields={
        **SHARED,
        "input": PROMPTS | st.lists(PROMPTS, min_size=1, max_size=LIST_MAX),
        "dimensions": st.integers(1, 8),
    },
)
VENDORS: Mapping[str, Vendor] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETIONS,
}
ASIDE: Mapping[str, Vendor] = {
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/v1/responses/input_tokens": INPUT_TOKENS,
    "/v1/embeddings": EMBEDDINGS,
}
"""By route, what is answered without a session."""

OFFERED = {route: vendor.requests() for route, vendor in VENDORS.items()}
"""By route, what is to be answered."""

ALLOWED = {
    route: Vendor(vendor.request, fields=LIMITS, needs=frozenset(LIMITS)).requests()
    for route, vendor in VENDORS.items()
}
"""By route, all that the SDK's types let through, whether it makes sense or not."""
