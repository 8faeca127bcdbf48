from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import tiny_llama
from engine_recorder import Recorder, recording

from inference_worker import llama_engine, llama_invariance
from inference_worker.engine import SequenceSpec
from inference_worker.llama_invariance import exact_width
from inference_worker.scripted_engine import open_scripted_engine
from replay.adapters import Adapter
from replay.request import SamplingParams

SLOTS = 8
TOLD = SamplingParams(seed=1, temperature=0, logprobs=True, n_probs=2, ignore_eos=True)


def rows_to(exact: int) -> Any:
    """A model whose kernel for more rows than these rounds otherwise, in the last of them."""

    def rows(width: int) -> Sequence[bytes]:
        return [b"same"] * (width - 1) + [b"same" if width <= exact else b"else"]

    return rows


@pytest.mark.parametrize(
    ("slots", "exact", "found"),
    [
        *[(1, 1, 1), (2, 1, 1), (2, 2, 2), (8, 1, 1), (8, 3, 3), (8, 5, 4), (8, 7, 7), (8, 8, 8)],
        *[(6, 5, 4), (6, 6, 6), (64, 15, 15), (64, 64, 64), (100, 99, 64)],
    ],
)
def test_the_widest_decode_that_rounds_as_a_lone_one(slots: int, exact: int, found: int) -> None:
    assert exact_width(rows_to(exact), slots) == found


def answers(recorder: Recorder, *specs: SequenceSpec) -> list[Any]:
    """What each says, and how likely it was, in every bit."""
    tokens = recorder.run(*specs)
    return [
        (said, [told for step in recorder.steps(spec.id) for told in step.logprobs])
        for spec, said in zip(specs, tokens, strict=True)
    ]


@pytest.mark.parametrize("file_type", ["F16", "Q4_0", "Q4_K_M", "Q6_K", "Q8_0"])
def test_whatever_the_weights_an_answer_is_the_same_among_others(
    tmp_path: Path, file_type: str
) -> None:
    path = tiny_llama.written(tmp_path, file_type)
    settings = llama_engine.LlamaSettings(path, "tiny", slots=SLOTS, threads=1, context_tokens=256)
    with recording(llama_engine.open_llama_engine(settings)) as recorder:
        assert recorder.engine.model.batch_invariant
        specs = [
            SequenceSpec(f"{n}", (1, *range(10, 20 + n)), TOLD, max_tokens=16) for n in range(SLOTS)
        ]
        together = answers(recorder, *specs)
        for spec, said in zip(specs, together, strict=True):
            assert answers(recorder, spec) == [said]
        assert len({tokens for tokens, _ in together}) == SLOTS


def test_who_wants_speed_is_told_the_price(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_worker.llama_invariance.exact_width", lambda rows, slots: 3)
    path = tiny_llama.written(tmp_path, "F32")
    settings = llama_engine.LlamaSettings(path, "tiny", slots=4, threads=1, exact_answers=False)
    engine = llama_engine.open_llama_engine(settings)
    engine.close()
    assert (engine.model.batch_invariant, engine.model.answers_max) == (False, 0)
    assert "answers of tiny depend on what runs beside them" in caplog.text


@pytest.mark.parametrize("exact", [True, False])
def test_adapters_share_a_step_only_where_nobody_asks_for_exactness(
    monkeypatch: pytest.MonkeyPatch, *, exact: bool
) -> None:
    monkeypatch.setattr(llama_invariance, "exact_width", lambda rows, slots: slots)
    info = replace(open_scripted_engine(slots=4).model, adapters=(Adapter("a.gguf", "ab"),))
    found = llama_invariance.with_company(None, info, exact=exact)
    assert (found.batch_invariant, found.answers_max) == (exact, 0)


def test_an_encoder_is_asked_nothing(tmp_path: Path) -> None:
    path = tiny_encoder.written(tmp_path / "tiny.gguf")
    engine = llama_engine.open_llama_engine(llama_engine.LlamaSettings(path, "tiny", threads=1))
    engine.close()
    assert (engine.model.batch_invariant, engine.model.answers_max) == (True, 0)
