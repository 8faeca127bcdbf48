"""Vectors of texts, and how relevant documents are to a query. No session: nothing is logged.

A request is asked about in parts, so that one of two thousand inputs holds nobody up for long, and
all workers of the model share it.
"""

from __future__ import annotations

import asyncio
import json
from array import array
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from api.catalog import Model
from api.dialects.as_chat import text_at
from api.fields import INT_MAX, Fields, mistyped, out_of_range
from api.node import Node, NodeDep
from api.preparing import answered
from api.problems import RequestInvalid
from api.tokens import Asking
from replay.prepare import INPUTS_MAX, Embed, Embedded, Input, Rerank

INPUTS_PER_REQUEST_MAX = 2048
"""Most inputs, or documents, of one request: as many as OpenAI takes."""

INPUT_BYTES_MAX = 1 << 20
"""Most bytes of all inputs of a request; a token counts as four."""

PART_BYTES = 8 << 10
"""A part of a request takes further inputs up to so many bytes: some seconds on two cores."""

PARTS_AT_ONCE = 4
"""How many parts of one request wait for workers; others' requests come in between."""

TOKEN_BYTES = 4
NORMALIZE_DEFAULT = 2

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Found:
    """The vectors of all inputs, and what they cost."""

    vectors: tuple[str, ...]
    width: int
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """As OpenAI tells it."""
        return {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens}


@router.post("/v1/embeddings")
async def embeddings(request: Request, node: NodeDep) -> Response:
    """A vector for each input, as OpenAI answers; as llama.cpp does where they are ``content``."""
    asking = await Asking.of(request, node)
    if asking.fields.get("input") is None and asking.fields.get("content") is not None:
        return await _native(asking)
    encoding = _encoding(asking.fields)
    asked = replace(_asked(asking.fields), single=True)
    model = await asking.model()
    found = await _found(node, model, _parts_of(asked))
    head = {"model": asking.fields.text("model") or model.name, "object": "list"}
    items = (
        _item(number, vector, encoding, found.width) for number, vector in enumerate(found.vectors)
    )
    return await _listed({**head, "usage": found.usage, "data": []}, items)


@router.post("/embeddings")
@router.post("/embedding")
async def native_embeddings(request: Request, node: NodeDep) -> Response:
    """For each input its vectors, as llama.cpp answers: one, or with pooling ``none`` one for each
    token."""
    return await _native(await Asking.of(request, node))


async def _native(asking: Asking) -> Response:
    if _encoding(asking.fields) == "base64":
        raise RequestInvalid("Field 'encoding_format': base64 is for 'input' on /v1/embeddings")
    asked = _asked(asking.fields)
    found = await _found(asking.node, await asking.model(), _parts_of(asked))
    return await _listed([], (_rows(one, found) for one in enumerate(found.vectors)))


@router.post("/v1/rerank")
@router.post("/v1/reranking", include_in_schema=False)
@router.post("/rerank", include_in_schema=False)
@router.post("/reranking", include_in_schema=False)
async def rerank(request: Request, node: NodeDep) -> Response:
    """Places of documents, the most relevant first, as Jina answers; of ``texts``, as TEI does."""
    asking = await Asking.of(request, node)
    fields = asking.fields
    asked = Rerank(_query(fields), _documents(fields))
    top = fields.bounded("top_n", len(asked.documents), low=0)
    returns_text = fields.boolean("return_text")
    model = await asking.model()
    found = await _found(node, model, _parts_of_ranking(asked))
    scores = [_floats(vector)[0] for vector in found.vectors]
    best = sorted(range(len(scores)), key=lambda place: -scores[place])[:top]
    if fields.get("documents") is None:
        texts = [{"text": asked.documents[place]} if returns_text else {} for place in best]
        ranked = [{"index": place, "score": scores[place]} for place in best]
        return _response(
            json.dumps([{**one, **text} for one, text in zip(ranked, texts, strict=True)])
        )
    results = [{"index": place, "relevance_score": scores[place]} for place in best]
    head = {"model": fields.text("model") or model.name, "object": "list", "usage": found.usage}
    return _response(json.dumps({**head, "results": results}))


# What was asked.


def _asked(fields: Fields) -> Embed:
    inputs = _inputs(fields)
    normalize = fields.bounded("embd_normalize", NORMALIZE_DEFAULT, low=-1, high=100)
    is_cut = fields.get("dimensions") is not None
    dimensions = fields.bounded("dimensions", 1, low=1) if is_cut else 0
    return Embed(inputs, normalize=normalize, dimensions=dimensions)


def _encoding(fields: Fields) -> Literal["float", "base64"]:
    match fields.text("encoding_format", "float"):
        case "float":
            return "float"
        case "base64":
            return "base64"
    raise RequestInvalid(
        "Field 'encoding_format': The format to return the embeddings in. "
        "Can be either float or base64"
    )


def _inputs(fields: Fields) -> tuple[Input, ...]:
    """The inputs in any of llama.cpp's forms. Raises RequestInvalid."""
    name = fields.first_of(("input", "content"))
    raw = fields.get(name)
    if raw is None:
        raise RequestInvalid('"input" or "content" must be provided')
    if raw == []:
        raise RequestInvalid(f'"{name}" must not be empty')
    if isinstance(raw, list) and not any(_is_token(part) for part in raw):
        inputs = tuple(_input(f"{name}[{place}]", one) for place, one in enumerate(raw))
    else:
        inputs = (_input(name, raw),)
    _check_size(name, inputs)
    return inputs


def _is_token(part: Any) -> bool:
    return isinstance(part, int | float) and not isinstance(part, bool)


def _input(name: str, raw: Any) -> Input:
    """One input: a text, a text in an object of llama.cpp's or OpenAI's, or tokens and texts."""
    if isinstance(raw, dict):
        if raw.get("multimodal_data"):
            raise RequestInvalid(f"Field '{name}.multimodal_data': this model reads text only")
        if raw.get("content") is not None:
            return _content(f"{name}.content", raw["content"])
        field = "text" if raw.get("type") == "text" else "prompt_string"
        name, raw = f"{name}.{field}", raw.get(field)
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, list):
        raise mistyped(name, "a string or an array of token ids", raw)
    if not raw:
        raise RequestInvalid(f"Field '{name}': Input content cannot be empty")
    return tuple(_part(f"{name}[{place}]", part) for place, part in enumerate(raw))


def _content(name: str, parts: Any) -> str:
    """The text of OpenAI's parts of content, joined."""
    if not isinstance(parts, list) or not parts:
        raise mistyped(name, "a non-empty array of parts", parts)
    return "".join(_text_of(f"{name}[{place}]", part) for place, part in enumerate(parts))


def _text_of(name: str, part: Any) -> str:
    if not isinstance(part, dict):
        raise mistyped(name, "an object", part)
    if part.get("type") != "text":
        raise RequestInvalid(f"Field '{name}.type': this model reads text only")
    return text_at(name, part, "text")


def _part(name: str, part: Any) -> int | str:
    if isinstance(part, str):
        return part
    if type(part) is not int:
        raise mistyped(name, "a token id or a string", part)
    if not 0 <= part <= INT_MAX:
        raise out_of_range(name, 0, INT_MAX, part)
    return part


def _query(fields: Fields) -> str:
    if fields.get("query") is None:
        raise RequestInvalid('"query" must be provided')
    if not isinstance(fields.get("query"), str):
        raise RequestInvalid('"query" must be a string')
    return fields.text("query")


def _documents(fields: Fields) -> tuple[str, ...]:
    name = fields.first_of(("documents", "texts"))
    name = "documents" if fields.get(name) is None else name
    raw = fields.get(name)
    if not isinstance(raw, list) or not raw or not all(isinstance(one, str) for one in raw):
        raise RequestInvalid(f'"{name}" must be a non-empty string array')
    documents = tuple(raw)
    _check_size(name, documents)
    return documents


def _check_size(name: str, inputs: Sequence[Input]) -> None:
    if len(inputs) > INPUTS_PER_REQUEST_MAX:
        raise RequestInvalid(f"Field '{name}': more than {INPUTS_PER_REQUEST_MAX}")
    if sum(map(_size, inputs)) > INPUT_BYTES_MAX:
        raise RequestInvalid(f"Field '{name}': longer than {INPUT_BYTES_MAX} bytes")


def _size(given: Input) -> int:
    if isinstance(given, str):
        return len(given.encode("utf-8", "replace"))
    return sum(_size(part) if isinstance(part, str) else TOKEN_BYTES for part in given)


# What is asked of workers.


def _parts_of(asked: Embed) -> list[Embed]:
    return [replace(asked, inputs=part) for part in parts(asked.inputs)]


def _parts_of_ranking(asked: Rerank) -> list[Rerank]:
    return [replace(asked, documents=part) for part in parts(asked.documents)]


def parts(inputs: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The inputs in their order, some together; one that is too large for that is alone. Pure."""
    found: list[tuple[Any, ...]] = []
    room = 0
    for one in inputs:
        room -= _size(one)
        if not found or room < 0 or len(found[-1]) == INPUTS_MAX:
            found.append(())
            room = PART_BYTES - _size(one)
        found[-1] += (one,)
    return found


async def _found(node: Node, model: Model, asked: Sequence[Embed | Rerank]) -> Found:
    """The answers to all parts; the first refusal is the request's. Raises as ``answered``."""
    waiting = asyncio.Semaphore(PARTS_AT_ONCE)

    async def one(part: Embed | Rerank) -> Embedded:
        async with waiting:
            return await answered(node, model, part, Embedded)

    tasks = [asyncio.ensure_future(one(part)) for part in asked]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return Found(
        tuple(chain.from_iterable(part.vectors for part in found)),
        found[0].width,
        sum(part.prompt_tokens for part in found),
    )


# What is answered.


def _item(number: int, vector: str, encoding: Literal["float", "base64"], width: int) -> str:
    if encoding == "base64":
        shown: Any = {"embedding": vector, "index": number, "object": "embedding"}
        return json.dumps({**shown, "encoding_format": "base64"})
    shown = {"embedding": _floats(vector), "index": number, "object": "embedding"}
    return json.dumps(shown)


def _rows(numbered: tuple[int, str], found: Found) -> str:
    number, vector = numbered
    floats, width = _floats(vector), found.width
    rows = [floats[start : start + width] for start in range(0, len(floats), width)]
    return json.dumps({"index": number, "embedding": rows})


def _floats(vector: str) -> list[float]:
    """The 32-bit floats of a vector; all machines that we run on are little endian."""
    return array("f", b64decode(vector)).tolist()


async def _listed(head: dict[str, Any] | list[Any], items: Iterable[str]) -> Response:
    """``head``, an empty array at its end filled with items that are JSON already.

    Other requests go on between any two: a million numbers take a second to write.
    """
    shown: list[str] = []
    for item in items:
        shown.append(item)
        await asyncio.sleep(0)
    before, after = json.dumps(head).rsplit("]", 1)
    return _response(f"{before}{', '.join(shown)}]{after}")


def _response(body: str) -> Response:
    return Response(body, media_type="application/json")
