"""The real model's vectors, beside those that llama-cpp-python's own ``Llama.embed`` makes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_recorder import recording

from inference_worker.batch_loop import BatchEngine
from inference_worker.embedding import computed, embedded, normalized
from inference_worker.engine import EmbeddingSettings, Pooling, SequenceSpec, Vectors
from replay.prepare import Embed, Embedded
from replay.request import SamplingParams

llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")

TEXTS = ("Hello world", "Ein Haus am See", "a b c d e f g " * 2, "語 🚲")
WIDTH = 576
ALIKE = 0.999
"""Least cosine of vectors that mean the same; rounding follows what is computed together."""


def settings(model_file: Path, pooling: Pooling | None) -> Any:
    return llama_engine.LlamaSettings(
        model_file,
        "smollm2-135m-instruct",
        slots=2,
        context_tokens=512,
        threads=1,
        embedding=EmbeddingSettings(pooling, batch_tokens=96, ubatch_tokens=96),
    )


@contextmanager
def loaded(model_file: Path, pooling: Pooling | None) -> Iterator[BatchEngine]:
    engine = llama_engine.open_llama_engine(settings(model_file, pooling))
    engine.start(lambda steps: None)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine(model_file: Path) -> Iterator[BatchEngine]:
    with loaded(model_file, None) as one:
        yield one


def found(engine: BatchEngine, *texts: str) -> list[Vectors]:
    info = engine.model.embedding
    assert info is not None
    inputs = [engine.tokenize(text, add_special=True, parse_special=True) for text in texts]
    return computed(engine, info, inputs)


def cosine(one: list[float], other: list[float]) -> float:
    pairs = zip(normalized(one, 2), normalized(other, 2), strict=True)
    return sum(a * b for a, b in pairs)


def reference(model_file: Path, pooling: Pooling) -> list[Any]:
    """What llama-cpp-python makes of the texts."""
    import llama_cpp

    from inference_worker.llama_embedder import POOLINGS

    llama = llama_cpp.Llama(
        str(model_file),
        embedding=True,
        pooling_type=POOLINGS[pooling],
        n_ctx=512,
        n_threads=1,
        verbose=False,
    )
    try:
        return [llama.embed(text) for text in TEXTS]
    finally:
        llama.close()


def test_a_text_has_the_same_vector_alone_and_among_others(engine: BatchEngine) -> None:
    together = found(engine, *TEXTS)
    for text, [among] in zip(TEXTS, together, strict=True):
        [[alone]] = found(engine, text)
        assert len(alone) == WIDTH
        assert cosine(alone, among) > ALIKE
    assert cosine(together[0][0], together[1][0]) < ALIKE


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST])
def test_vectors_are_those_that_the_high_level_api_makes(
    model_file: Path, pooling: Pooling
) -> None:
    with loaded(model_file, pooling) as engine:
        ours = found(engine, *TEXTS)
    for [one], other in zip(ours, reference(model_file, pooling), strict=True):
        assert cosine(one, other) > ALIKE
        assert math.hypot(*one) == pytest.approx(math.hypot(*other), rel=0.01)


def test_without_pooling_each_token_has_the_high_level_apis_vector(model_file: Path) -> None:
    with loaded(model_file, Pooling.NONE) as engine:
        ours = found(engine, *TEXTS)
    for rows, others in zip(ours, reference(model_file, Pooling.NONE), strict=True):
        assert len(rows) == len(others)
        assert all(cosine(one, other) > ALIKE for one, other in zip(rows, others, strict=True))


def test_a_model_that_names_no_pooling_has_the_mean(engine: BatchEngine) -> None:
    info = engine.model.embedding
    assert info is not None
    assert (info.pooling, info.width) == (Pooling.MEAN, WIDTH)


def test_a_model_without_rank_head_is_not_asked_to_rank(model_file: Path) -> None:
    with loaded(model_file, Pooling.RANK) as engine:
        info = engine.model.embedding
        assert info is not None and info.pooling is Pooling.MEAN


def test_inputs_are_one_decode(engine: BatchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = engine._model
    sizes: list[int] = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda inputs: sizes.append(len(inputs)) or embed(inputs))
    embedded(engine, Embed(TEXTS))
    assert sizes == [len(TEXTS)]


def test_the_longest_input_is_embedded_and_a_longer_one_refused(engine: BatchEngine) -> None:
    info = engine.model.embedding
    assert info is not None
    [[vector]] = computed(engine, info, [[5] * info.input_tokens_max])
    assert all(map(math.isfinite, vector))


def test_an_answer_goes_on_while_texts_are_embedded(model_file: Path) -> None:
    with recording(llama_engine.open_llama_engine(settings(model_file, None))) as recorder:
        engine = recorder.engine
        prompt = tuple(engine.prompt_tokens([{"role": "user", "content": "Count."}]))
        spec = SequenceSpec(
            "s",
            prompt,
            sampling=SamplingParams(seed=1, temperature=0, ignore_eos=True),
            max_tokens=20,
        )
        [alone] = recorder.run(spec)
        results: list[Any] = []
        asking = threading.Thread(target=lambda: results.append(embedded(engine, Embed(TEXTS * 3))))
        asking.start()
        began = time.monotonic()
        [beside] = recorder.run(spec)
        asking.join(60 - (time.monotonic() - began))
    assert beside == alone
    assert isinstance(results[0], Embedded)
