"""Vectors and scores at the worker: which inputs go together, and what becomes of the vectors."""

from __future__ import annotations

import math
import struct
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker import embedding
from inference_worker.batch_loop import BatchEngine
from inference_worker.embedding import batches, embedded, normalized, reranked
from inference_worker.engine import EmbeddingInfo, EngineFailed, Pooling, PromptInvalid
from inference_worker.scripted_engine import EMBEDDING_WIDTH, open_scripted_engine
from replay.prepare import Embed, Embedded, Refused, Rerank

LONGEST = 20


@contextmanager
def running(pooling: Pooling | None) -> Iterator[BatchEngine]:
    engine = open_scripted_engine(pooling=pooling, input_tokens_max=LONGEST)
    engine.start(lambda steps: None)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[BatchEngine]:
    with running(Pooling.MEAN) as one:
        yield one


def floats(packed: str) -> list[float]:
    raw = b64decode(packed)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def vectors(engine: BatchEngine, *inputs: Any, **how: Any) -> list[list[float]]:
    found = embedded(engine, Embed(inputs, **how))
    assert isinstance(found, Embedded)
    return [floats(vector) for vector in found.vectors]


def test_an_input_is_the_same_as_text_and_as_tokens(engine: BatchEngine) -> None:
    tokens = tuple(engine.tokenize("hi", add_special=True, parse_special=True))
    one, two, three = vectors(engine, "hi", tokens, (tokens[0], "", *tokens[1:]))
    assert one == two == three
    assert math.hypot(*one) == pytest.approx(1)


def test_tokens_are_counted_and_the_width_told(engine: BatchEngine) -> None:
    found = embedded(engine, Embed(("ab", (1, 2, 3))))
    assert isinstance(found, Embedded)
    assert (found.prompt_tokens, found.width) == (len("xab") + 3, EMBEDDING_WIDTH)


def test_equal_inputs_are_computed_once(
    engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_seen: list[Any] = []
    embed = engine.embed

    def watched(inputs: Any) -> Any:
        batches_seen.extend(inputs)
        return embed(inputs)

    monkeypatch.setattr(engine, "embed", watched)
    one, two, three = vectors(engine, "hi", (5, 6), "hi")
    assert one == three != two
    assert len(batches_seen) == 2


def test_fewer_dimensions_are_of_length_1_too(engine: BatchEngine) -> None:
    [whole], [cut] = vectors(engine, (1, 2, 9)), vectors(engine, (1, 2, 9), dimensions=2)
    assert (len(cut), math.hypot(*cut)) == (2, pytest.approx(1))
    assert cut[0] == pytest.approx(0)
    assert whole[1] == pytest.approx(2 * whole[2])


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Embed(("a", "")), "input"),
        (Embed(((1,) * (LONGEST + 1),)), "input"),
        (Embed(((10**6,),)), "input"),
    ],
)
def test_an_input_that_cannot_be_embedded_is_refused(
    engine: BatchEngine, asked: Embed, field: str
) -> None:
    plain = Embed(tuple(one or () for one in asked.inputs))  # a text here always has a token
    with pytest.raises(PromptInvalid) as raised:
        embedded(engine, plain)
    assert raised.value.field == field


def test_an_input_of_the_longest_length_is_embedded(engine: BatchEngine) -> None:
    assert vectors(engine, (1,) * LONGEST) == vectors(engine, (1,))


def test_more_dimensions_than_there_are_are_refused(engine: BatchEngine) -> None:
    found = embedded(engine, Embed(("a",), dimensions=EMBEDDING_WIDTH + 1))
    assert isinstance(found, Refused)
    assert (found.kind, found.param) == ("invalid", "dimensions")


def test_what_is_switched_off_names_its_setting() -> None:
    with running(None) as engine:
        found = embedded(engine, Embed(("a",)))
    assert isinstance(found, Refused)
    assert (found.kind, "REPLAY_EMBEDDINGS" in found.message) == ("unsupported", True)


def test_a_model_without_rank_head_does_not_rank(engine: BatchEngine) -> None:
    found = reranked(engine, Rerank("a", ("b",)))
    assert isinstance(found, Refused)
    assert (found.kind, "REPLAY_POOLING" in found.message) == ("unsupported", True)


def test_documents_get_their_scores_in_their_order() -> None:
    with running(Pooling.RANK) as engine:
        found = reranked(engine, Rerank("q", ("a", "b!!", "c!")))
    assert isinstance(found, Embedded)
    assert [floats(score) for score in found.vectors] == [[0.0], [2.0], [1.0]]


def test_each_token_has_its_own_vector_without_pooling() -> None:
    with running(Pooling.NONE) as engine:
        [row] = vectors(engine, (1, 2, 9))
        refused = embedded(engine, Embed(((1,),), single=True))
    assert [row.index(1.0, place * EMBEDDING_WIDTH) % EMBEDDING_WIDTH for place in range(3)] == [
        1,
        2,
        1,
    ]
    assert isinstance(refused, Refused)
    assert "Pooling type 'none' is not OAI compatible" in refused.message


def test_vectors_have_a_limit_in_bytes(
    engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "VECTORS_BYTES_MAX", 2 * 4 * EMBEDDING_WIDTH)
    assert len(vectors(engine, "a", "b")) == 2
    with pytest.raises(PromptInvalid):
        embedded(engine, Embed(("a", "b", "c")))


@given(st.lists(st.integers(1, 12).map(lambda size: [0] * size)), st.integers(1, 4))
def test_inputs_that_fit_are_computed_together(inputs: list[list[int]], at_once: int) -> None:
    info = EmbeddingInfo(Pooling.MEAN, 1, batch_tokens=8, batch_inputs=at_once, input_tokens_max=12)
    found = list(batches(info, inputs))
    assert [] not in found
    assert [one for batch in found for one in batch] == inputs
    for batch, following in pairwise([*found, []]):
        size = sum(map(len, batch))
        assert len(batch) == 1 or (size <= 8 and len(batch) <= at_once)
        assert not following or len(batch) == at_once or size + len(following[0]) > 8


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (-1, lambda vector: 1.0),
        (0, lambda vector: max(map(abs, vector)) / 32760),
        (1, lambda vector: sum(map(abs, vector))),
        (2, lambda vector: math.sqrt(sum(value**2 for value in vector))),
        (3, lambda vector: sum(abs(value) ** 3 for value in vector) ** (1 / 3)),
    ],
)
def test_a_vector_is_scaled_as_llama_cpp_scales_it(
    kind: int, size: Callable[[list[float]], float]
) -> None:
    vector = [3.0, -4.0, 0.5]
    assert normalized(vector, kind) == pytest.approx([value / size(vector) for value in vector])


@pytest.mark.parametrize("kind", [-1, 0, 1, 2, 100])
def test_no_vector_is_too_large_or_nothing_at_all(kind: int) -> None:
    assert normalized([0.0, 0.0], kind) == [0.0, 0.0]
    assert all(map(math.isfinite, normalized([1e30, -1e30], kind)))


def test_a_batch_that_fails_fails_alone(
    engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(inputs: Any) -> Any:
        raise EngineFailed("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(engine._model, "embed", fail)
        with pytest.raises(EngineFailed, match="no memory"):
            engine.embed([[1]])
    assert engine.embed([[1]])


def test_a_closed_engine_embeds_no_more() -> None:
    with running(Pooling.MEAN) as engine:
        pass
    with pytest.raises(EngineFailed):
        engine.embed([[1]])
