"""LoRA adapters on the real model: what they change, and that nobody else's change anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_adapter
from engine_recorder import Recorder, recording

from inference_worker.engine import EngineFailed, SequenceSpec
from replay.adapters import Adapter, Applied
from replay.request import SamplingParams

llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")

GREEDY = SamplingParams(seed=1, temperature=0)
CHUNK_TOKENS = 32
ONE: Applied = (("one", 1.0),)
HALF: Applied = (("one", 0.5),)
OTHER: Applied = (("other", 1.0),)
BOTH: Applied = (("one", 0.5), ("other", 0.5))
EACH = ((), ONE, ONE, HALF, OTHER, BOTH)


@pytest.fixture(scope="module")
def settings(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("adapters")
    adapters = tuple(
        Adapter(str(tiny_adapter.written(folder / f"{name}.gguf", seed=seed)), name)
        for seed, name in enumerate(("one", "other"))
    )
    return llama_engine.LlamaSettings(
        model_file,
        "smollm2-135m-instruct",
        slots=6,
        context_tokens=256,
        threads=1,
        prefill_chunk_tokens=CHUNK_TOKENS,
        adapters=adapters,
    )


@pytest.fixture(scope="module")
def recorder(settings: Any) -> Iterator[Recorder]:
    with recording(llama_engine.open_llama_engine(settings)) as recorder:
        yield recorder


def spec(recorder: Recorder, adapters: Applied, **options: Any) -> SequenceSpec:
    said = [{"role": "user", "content": "Tell me of a man of many parts, " * 6}]
    prompt = tuple(recorder.engine.prompt_tokens(said))
    known = {"sampling": GREEDY, "max_tokens": 24, "cache_prompt": False, **options}
    return SequenceSpec("one", prompt, adapters=adapters, **known)


def test_a_file_says_what_it_is_for(recorder: Recorder, settings: Any) -> None:
    one, other = recorder.engine.model.adapters
    assert (one.path, one.sha256, one.scale) == (settings.adapters[0].path, "one", 1.0)
    assert [(each.task_name, each.prompt_prefix) for each in (one, other)] == [
        ("task 0", "Say: "),
        ("task 1", "Say: "),
    ]


def test_without_any_an_answer_is_what_the_model_says_that_has_none(
    recorder: Recorder, settings: Any
) -> None:
    plain = recorder.run(spec(recorder, ()))
    with recording(llama_engine.open_llama_engine(replace(settings, adapters=()))) as other:
        assert other.run(spec(other, ())) == plain


def test_an_answer_is_the_same_alone_and_among_others_with_and_without_adapters(
    recorder: Recorder,
) -> None:
    specs = [replace(spec(recorder, one), id=str(n)) for n, one in enumerate(EACH)]
    together = recorder.run(*specs)
    assert len(set(together)) == len(set(EACH))
    assert [recorder.run(one)[0] for one in specs] == together


def test_whoever_takes_it_over_goes_on_with_the_same_adapters(
    recorder: Recorder, settings: Any
) -> None:
    one = spec(recorder, BOTH)
    (whole,) = recorder.run(one)
    turned = replace(settings, adapters=settings.adapters[::-1])
    with recording(llama_engine.open_llama_engine(turned)) as other:
        for cut in (1, 11):
            assert other.run(replace(one, sampled=whole[:cut])) == [whole[cut:]]


def test_what_needs_an_adapter_that_is_not_here_is_refused(recorder: Recorder) -> None:
    with pytest.raises(EngineFailed, match="adapters that are not here: third"):
        recorder.engine.submit(spec(recorder, (*ONE, ("third", 1.0))))


def cached(recorder: Recorder, one: SequenceSpec) -> tuple[int, tuple[int, ...]]:
    (tokens,) = recorder.run(one)
    timings = recorder.steps(one.id)[-1].timings
    assert timings is not None
    return timings.cache_n, tokens


def test_a_cache_serves_the_same_adapters_alone(recorder: Recorder) -> None:
    for slot in range(recorder.engine.model.slots):
        recorder.engine.erase_slot(slot)
    one, other = (spec(recorder, adapters, cache_prompt=True) for adapters in (ONE, HALF))
    computed, held = cached(recorder, one), CHUNK_TOKENS * (len(one.prompt) // CHUNK_TOKENS)
    assert computed[0] == 0
    assert cached(recorder, other)[0] == 0
    assert cached(recorder, one) == (held, computed[1])
    saved = recorder.engine.save_slot(0)
    recorder.engine.erase_slot(0)
    assert cached(recorder, one)[0] == 0
    recorder.engine.erase_slot(0)
    recorder.engine.restore_slot(0, saved)
    assert cached(recorder, spec(recorder, (), cache_prompt=True))[0] == 0
    assert cached(recorder, one) == (held, computed[1])


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"width": 64}, "does not fit"),
        ({"invoked_by": "Now"}, "aLoRA.*not supported"),
        (None, "cannot be read"),
    ],
    ids=["of another model", "invoked", "missing"],
)
def test_a_file_that_cannot_be_its_adapter_is_an_error_at_load(
    settings: Any, tmp_path: Path, form: Any, reason: str
) -> None:
    path = tmp_path / "it.gguf"
    if form:
        tiny_adapter.written(path, **form)
    with pytest.raises(EngineFailed, match=f"it.gguf.*{reason}"):
        llama_engine.open_llama_engine(replace(settings, adapters=(Adapter(str(path), "it"),)))
