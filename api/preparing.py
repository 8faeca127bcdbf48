"""What a worker says about a request before there is a session, as values and errors of the API."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from api.catalog import Model
from api.node import Node
from api.problems import ContextExceeded, EngineBroken, NotSupported, RequestInvalid, Unavailable
from replay.prepare import (
    Asked,
    Chat,
    Completion,
    Embedded,
    Prepared,
    Refused,
    Render,
    Result,
    Text,
    Tokenized,
)
from replay.request import GenerationRequest
from replay.slot_order import SlotChanged

Expected = TypeVar("Expected", Prepared, Tokenized, Text, Embedded, SlotChanged)


async def answered(node: Node, model: Model, asked: Asked, expected: type[Expected]) -> Expected:
    """The answer to a question about the model.

    Raises what is wrong with it, Unavailable where nobody can answer, and LogUnavailable.
    """
    result = await _result(node, model, asked)
    if isinstance(result, Refused):
        raise _refusal(result)
    if not isinstance(result, expected):
        raise Unavailable("a worker of another version answered, retry later", "no worker")
    return result


async def prepare(node: Node, model: Model, asked: GenerationRequest) -> Prepared:
    """The prompt's tokens, which leave room for an answer. Raises what ``answered`` does."""
    biases, constraint = asked.sampling.logit_bias, asked.constraint
    if asked.prompts or asked.infill:
        completion = Completion(asked.prompts, biases, constraint, asked.infill, asked.lora)
        return await answered(node, model, completion, Prepared)
    message = asked.reasoning.budget_message
    chat = Chat(asked.messages, biases, asked.chat, message, constraint, asked.lora)
    prepared = await answered(node, model, chat, Prepared)
    if not asked.render.verbose:
        return prepared
    shown = await answered(node, model, Render(asked.messages, asked.chat), Text)
    return replace(prepared, prompts=(shown.text,))


async def prompt_length(node: Node, model: Model, asked: GenerationRequest) -> int:
    """How many tokens the prompt has, also where it does not fit. Raises as ``prepare`` does."""
    try:
        return len((await prepare(node, model, asked)).prompt)
    except ContextExceeded as error:
        return error.prompt_tokens


async def _result(node: Node, model: Model, asked: Asked) -> Result:
    try:
        return await node.preparer.ask(model.name, asked)
    except TimeoutError:
        if await node.catalog.is_loading(model.name):
            raise Unavailable("Loading model", "loading") from None
        raise Unavailable(f"no worker answers for model '{model.name}'", "no worker") from None


def _refusal(refused: Refused) -> Exception:
    match refused.kind:
        case "context":
            return ContextExceeded(refused.message, refused.prompt_tokens, refused.context_tokens)
        case "engine":
            return EngineBroken(refused.message)
        case "unsupported":
            return NotSupported(refused.message)
        case "unknown":
            return Unavailable(refused.message, "no worker")
        case "busy":
            return Unavailable(refused.message, "busy")
        case _:
            return RequestInvalid(f"Field '{refused.param or 'messages'}': {refused.message}")
