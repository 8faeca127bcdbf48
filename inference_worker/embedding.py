"""Answers what a model must compute for: vectors of inputs, and how relevant documents are.

It runs beside *prepare*, on a list of its own. The arithmetic is pure; only ``Engine.embed`` waits.
"""

from __future__ import annotations

import array
import math
import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence

from inference_worker.engine import EmbeddingInfo, Engine, Pooling, PromptInvalid, Vectors
from replay.prepare import VECTORS_BYTES_MAX, Embed, Embedded, Input, Refused, Rerank

FLOAT_BYTES = 4
INT16_SCALE = 32760.0
"""To what llama.cpp scales the largest value, for vectors that become 16-bit integers."""

NO_EMBEDDINGS = (
    "This server does not support embeddings. Start it with `--embeddings`: "
    "here that is REPLAY_EMBEDDINGS=true at the worker"
)
NO_RERANKING = (
    "This server does not support reranking. Start it with `--reranking`: "
    "here that is a model with a rank head, and REPLAY_POOLING=rank at the worker"
)
NOT_POOLED = (
    "Pooling type 'none' is not OAI compatible. Please use a different pooling type: "
    "REPLAY_POOLING at the worker"
)


def embedded(engine: Engine, asked: Embed) -> Embedded | Refused:
    """Vectors of the inputs. Raises EngineError."""
    info = engine.model.embedding
    if info is None:
        return Refused("unsupported", NO_EMBEDDINGS)
    if asked.single and info.pooling is Pooling.NONE:
        return Refused("invalid", NOT_POOLED, param="input")
    if asked.dimensions > info.width:
        message = f"more than the {info.width} that the model has"
        return Refused("invalid", message, param="dimensions")
    inputs = [tokens_of(engine, one, number) for number, one in enumerate(asked.inputs)]
    check_inputs(info, inputs, "input")
    found = computed(engine, info, inputs)
    if info.pooling not in (Pooling.NONE, Pooling.RANK):
        width = asked.dimensions or info.width
        found = [[normalized(row[:width], asked.normalize) for row in rows] for rows in found]
    elif asked.dimensions:
        found = [[row[: asked.dimensions] for row in rows] for rows in found]
    return _packed(found, inputs)


def reranked(engine: Engine, asked: Rerank) -> Embedded | Refused:
    """A score for each document. Raises EngineError."""
    info = engine.model.embedding
    if info is None or info.pooling is not Pooling.RANK:
        return Refused("unsupported", NO_RERANKING)
    inputs = engine.rerank_inputs(asked.query, asked.documents)
    check_inputs(info, inputs, "documents")
    found = computed(engine, info, inputs)
    return _packed([[row[:1] for row in rows] for rows in found], inputs)


def tokens_of(engine: Engine, given: Input, number: int) -> list[int]:
    """An input's tokens; its texts begin as the model's texts do. Raises PromptInvalid."""
    if isinstance(given, str):
        return engine.tokenize(given, add_special=True, parse_special=True)
    tokens: list[int] = []
    for place, part in enumerate(given):
        if isinstance(part, str):
            tokens += engine.tokenize(part, add_special=place == 0, parse_special=True)
        elif 0 <= part < engine.model.vocabulary_tokens:
            tokens.append(part)
        else:
            last = engine.model.vocabulary_tokens - 1
            raise PromptInvalid(f"there is no token {part}, the last one is {last}", "input")
    return tokens


def check_inputs(info: EmbeddingInfo, inputs: Sequence[Sequence[int]], field: str) -> None:
    """Raises PromptInvalid where one is empty or too long, or their vectors are too many."""
    for tokens in inputs:
        if not tokens:
            raise PromptInvalid("Input content cannot be empty", field)
        if len(tokens) > info.input_tokens_max:
            raise PromptInvalid(
                f"input ({len(tokens)} tokens) is too large to process. increase the physical "
                f"batch size (current batch size: {info.input_tokens_max})",
                field,
            )
    rows = sum(map(len, inputs)) if info.pooling is Pooling.NONE else len(inputs)
    if rows * info.width * FLOAT_BYTES > VECTORS_BYTES_MAX:
        raise PromptInvalid(f"the vectors would exceed {VECTORS_BYTES_MAX} bytes", field)


def computed(engine: Engine, info: EmbeddingInfo, inputs: Sequence[Sequence[int]]) -> list[Vectors]:
    """What the model makes of the inputs, as many as it takes at once at a time.

    Equal ones are computed once: their vectors would differ by rounding.
    """
    distinct = dict.fromkeys(map(tuple, inputs))
    found = [one for batch in batches(info, distinct) for one in engine.embed(batch)]
    known = dict(zip(distinct, found, strict=True))
    return [known[tuple(tokens)] for tokens in inputs]


def batches(info: EmbeddingInfo, inputs: Iterable[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """The inputs in their order, as many together as fit; a longer one is alone."""
    batch: list[Sequence[int]] = []
    for tokens in inputs:
        size = sum(map(len, batch)) + len(tokens)
        if batch and (size > info.batch_tokens or len(batch) == info.batch_inputs):
            yield batch
            batch = []
        batch.append(tokens)
    if batch:
        yield batch


def normalized(vector: Sequence[float], kind: int) -> list[float]:
    """The vector scaled as llama.cpp's ``embd_normalize`` says (see ``Embed``)."""
    if kind < 0:
        return list(vector)
    if kind == 0:
        size = max(map(abs, vector)) / INT16_SCALE
    elif kind == 2:
        size = math.hypot(*vector)
    else:
        # Scaled by the largest first: a high power of it would overflow.
        largest = max(map(abs, vector)) or 1.0
        size = largest * sum((abs(value) / largest) ** kind for value in vector) ** (1 / kind)
    return [value / size for value in vector] if size else list(vector)


def _packed(found: Sequence[Vectors], inputs: Sequence[Sequence[int]]) -> Embedded:
    vectors = tuple(b64encode(_little_endian(rows)).decode() for rows in found)
    return Embedded(vectors, len(found[0][0]), sum(map(len, inputs)))


def _little_endian(rows: Vectors) -> bytes:
    floats = array.array("f", (value for row in rows for value in row))
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()
