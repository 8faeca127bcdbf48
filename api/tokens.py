"""Tokens and templates without a generation: to tokens, to text, to a prompt, and counting.

Nothing here opens a session or takes a slot: any worker with the model answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from api import requests
from api.catalog import Model
from api.dialects import openai_chat
from api.fields import INT_MAX, Fields, mistyped, out_of_range
from api.json_body import parse_object
from api.node import Node, NodeDep
from api.preparing import answered, prompt_length
from api.problems import RequestInvalid
from replay.prepare import Detokenize, Render, Text, Tokenize, Tokenized
from replay.request import GenerationRequest

TEXT_BYTES_MAX = 1 << 20
"""Longest text that is tokenized; a worker reads one question at a time."""

TOKENS_MAX = 1 << 20
"""Most tokens that are turned into text at once."""

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Asking:
    """A request's body, and the node that it came to."""

    node: Node
    fields: Fields
    body: Mapping[str, Any]

    @classmethod
    async def of(cls, request: Request, node: Node) -> Asking:
        """Reads the body. Raises RequestInvalid, BodyTooLarge and Unavailable."""
        node.presence.check_open()
        body = parse_object(await requests.read_body(request, node.settings.body_bytes_max))
        return cls(node, Fields(body), body)

    def chat(self) -> GenerationRequest:
        """The body as a chat request. Raises RequestInvalid."""
        return openai_chat.parse(self.body, random_seed=0)

    async def model(self) -> Model:
        """The model that it names. Raises RequestInvalid and Unavailable."""
        return await self.node.catalog.choose(self.fields.text("model"))


@router.post("/tokenize")
async def tokenize(request: Request, node: NodeDep) -> Response:
    """A text's token ids; with ``with_pieces`` each beside its text, or its bytes where they are
    no valid UTF-8."""
    asking = await Asking.of(request, node)
    asked = _tokenize(asking.fields)
    model = await asking.model()
    if asking.fields.get("content") is None:
        return JSONResponse({"tokens": []})
    found = await answered(node, model, asked, Tokenized)
    if not asked.with_pieces:
        return JSONResponse({"tokens": found.tokens})
    pairs = zip(found.tokens, found.pieces, strict=True)
    return JSONResponse({"tokens": [{"id": token, "piece": piece} for token, piece in pairs]})


def _tokenize(fields: Fields) -> Tokenize:
    text = fields.text("content")
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise RequestInvalid(f"Field 'content': longer than {TEXT_BYTES_MAX} bytes")
    return Tokenize(
        text,
        add_special=fields.boolean("add_special"),
        parse_special=fields.boolean("parse_special", True),
        with_pieces=fields.boolean("with_pieces"),
    )


@router.post("/detokenize")
async def detokenize(request: Request, node: NodeDep) -> Response:
    """The text that token ids stand for; what is no valid UTF-8 becomes U+FFFD."""
    asking = await Asking.of(request, node)
    asked = Detokenize(_tokens(asking.fields))
    found = await answered(node, await asking.model(), asked, Text)
    return JSONResponse({"content": found.text})


def _tokens(fields: Fields) -> tuple[int, ...]:
    tokens = fields.get("tokens")
    if tokens is None:
        return ()
    if not isinstance(tokens, list):
        raise mistyped("tokens", "an array of integers", tokens)
    if len(tokens) > TOKENS_MAX:
        raise RequestInvalid(f"Field 'tokens': more than {TOKENS_MAX}")
    for index, token in enumerate(tokens):
        if type(token) is not int:
            raise mistyped(f"tokens[{index}]", "an integer", token)
        if not 0 <= token <= INT_MAX:
            raise out_of_range(f"tokens[{index}]", 0, INT_MAX, token)
    return tuple(tokens)


@router.post("/apply-template")
async def apply_template(request: Request, node: NodeDep) -> Response:
    """The prompt's text that a chat request with this body is generated from."""
    asking = await Asking.of(request, node)
    chat = asking.chat()
    found = await answered(node, await asking.model(), Render(chat.messages, chat.chat), Text)
    return JSONResponse({"prompt": found.text})


@router.post("/v1/chat/completions/input_tokens")
@router.post("/chat/completions/input_tokens", include_in_schema=False)
async def count_chat_tokens(request: Request, node: NodeDep) -> Response:
    """How many tokens the prompt of a chat request with this body has, fit it or not."""
    asking = await Asking.of(request, node)
    asked = asking.chat()
    count = await prompt_length(node, await asking.model(), asked)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})
