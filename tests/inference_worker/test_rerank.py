"""Ranking by a model that has a rank head: a tiny one, whose weights this test knows."""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoder import CLS, CONTEXT_TOKENS, SEP, TOKENS, WIDTH, tensors, written

from inference_worker.batch_loop import BatchEngine
from inference_worker.embedding import embedded, reranked
from inference_worker.engine import EmbeddingSettings, Pooling, PromptInvalid
from inference_worker.preparing import result_of
from replay.prepare import Chat, Completion, Embed, Embedded, Refused, Rerank

llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")

QUERY = "ab"
DOCUMENTS = ("c", "dd e", "ab", "z y x w")


@contextmanager
def loaded(path: Path, pooling: Pooling | None = None) -> Iterator[BatchEngine]:
    settings = llama_engine.LlamaSettings(
        path,
        "tiny",
        slots=1,
        context_tokens=CONTEXT_TOKENS,
        threads=1,
        embedding=EmbeddingSettings(pooling),
    )
    engine = llama_engine.open_llama_engine(settings)
    engine.start(lambda steps: None)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[BatchEngine]:
    with loaded(path) as one:
        yield one


def ids(*pieces: str) -> list[int]:
    return [TOKENS.index(piece) for piece in pieces]


def scores(engine: BatchEngine, *documents: str) -> list[float]:
    found = reranked(engine, Rerank(QUERY, documents))
    assert isinstance(found, Embedded)
    assert found.width == 1
    return [struct.unpack("<f", b64decode(vector))[0] for vector in found.vectors]


def test_a_document_stands_beside_the_query_as_the_vocabulary_asks(engine: BatchEngine) -> None:
    [tokens] = engine.rerank_inputs(QUERY, ["dd e"])
    query, document = ids("\u2581a", "b"), ids("\u2581d", "d", "\u2581e")
    assert tokens == [CLS, *query, SEP, *document]


def test_scores_are_what_the_rank_head_makes_of_the_first_tokens_vector(
    engine: BatchEngine, path: Path
) -> None:
    with loaded(path, Pooling.CLS) as plain:
        found = plain.embed(plain.rerank_inputs(QUERY, DOCUMENTS))
    head = tensors()
    inner = [np.tanh(head["cls.weight"] @ np.array(rows[0]) + head["cls.bias"]) for rows in found]
    expected = [
        float((head["cls.output.weight"] @ one + head["cls.output.bias"])[0]) for one in inner
    ]
    assert scores(engine, *DOCUMENTS) == pytest.approx(expected, abs=0.01)
    assert len(set(expected)) == len(DOCUMENTS)


def test_a_document_has_the_same_score_alone_and_among_others(engine: BatchEngine) -> None:
    together = scores(engine, *DOCUMENTS)
    assert [scores(engine, one)[0] for one in DOCUMENTS] == pytest.approx(together, abs=1e-4)


def test_an_encoder_is_not_asked_for_an_answer(engine: BatchEngine) -> None:
    for asked in (Chat(({"role": "user", "content": "ab"},)), Completion(((2, 5),))):
        found = result_of(engine, asked)
        assert isinstance(found, Refused)
        assert found.kind == "unsupported"


def test_a_document_longer_than_the_model_knows_is_refused(engine: BatchEngine) -> None:
    with pytest.raises(PromptInvalid, match="too large to process"):
        reranked(engine, Rerank(QUERY, ("a " * CONTEXT_TOKENS,)))


@pytest.mark.parametrize("pooling", [None, Pooling.RANK])
def test_a_file_that_asks_for_ranking_without_a_head_embeds(
    tmp_path: Path, pooling: Pooling | None
) -> None:
    headless: Any = written(tmp_path / "headless.gguf", has_rank_head=False)
    with loaded(headless, pooling) as engine:
        assert isinstance(reranked(engine, Rerank(QUERY, DOCUMENTS)), Refused)
        found = embedded(engine, Embed(DOCUMENTS))
    assert isinstance(found, Embedded)
    assert (found.width, len(found.vectors)) == (WIDTH, len(DOCUMENTS))
