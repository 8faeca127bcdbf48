"""A slot's KV cache, saved and restored: a real model goes on from it with the very same tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_recorder import Recorder, recording

from inference_worker.engine import SavedSlot, SavedUnfit, SequenceSpec
from inference_worker.slot_files import SlotFiles
from replay.request import SamplingParams

llama_engine = pytest.importorskip("inference_worker.llama_engine", reason="no llama_cpp here")

TOLD = SamplingParams(seed=1, temperature=0, logprobs=True, n_probs=2)
SLOTS = 3
CHUNK_TOKENS = 64
HELD_TOKENS = 2 * CHUNK_TOKENS


@pytest.fixture(scope="module")
def settings(model_file: Path) -> Any:
    return llama_engine.LlamaSettings(
        model_file,
        "m",
        slots=SLOTS,
        context_tokens=256,
        threads=1,
        prefill_chunk_tokens=CHUNK_TOKENS,
        sha256="of the file",
    )


@pytest.fixture(scope="module")
def recorder(settings: Any) -> Iterator[Recorder]:
    with recording(llama_engine.open_llama_engine(settings)) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def prompt(recorder: Recorder) -> tuple[int, ...]:
    """Of two chunks and a half."""
    return prompt_of(recorder, "A tale. " + "He was a man of many parts. " * 16)


@pytest.fixture(scope="module")
def saved(recorder: Recorder, prompt: tuple[int, ...]) -> SavedSlot:
    """What that prompt left in its slot, all of which hold nothing afterwards."""
    recorder.run(spec("first", prompt, max_tokens=4))
    slot = recorder.engine.held_tokens.index(HELD_TOKENS)
    saved = recorder.engine.save_slot(slot)
    assert recorder.engine.erase_slot(slot) == HELD_TOKENS
    assert recorder.engine.held_tokens == (0,) * SLOTS
    return saved


def prompt_of(recorder: Recorder, content: str) -> tuple[int, ...]:
    return tuple(recorder.engine.prompt_tokens([{"role": "user", "content": content}]))


def spec(name: str, prompt: tuple[int, ...], **options: Any) -> SequenceSpec:
    return SequenceSpec(name, prompt, **{"sampling": TOLD, "max_tokens": 8, **options})


def answer(recorder: Recorder, one: SequenceSpec) -> tuple[int, tuple[int, ...], list[Any]]:
    """How many of its prompt's tokens were in a cache; its tokens, and their probabilities."""
    (tokens,) = recorder.run(one)
    steps = recorder.steps(one.id)
    assert steps[-1].timings is not None
    return steps[-1].timings.cache_n, tokens, [told for step in steps for told in step.logprobs]


def test_an_answer_after_a_restore_is_the_one_without_to_the_last_probability(
    recorder: Recorder, settings: Any, prompt: tuple[int, ...], saved: SavedSlot, tmp_path: Path
) -> None:
    turn = spec("turn", prompt)
    _, tokens, told = answer(recorder, replace(turn, cache_prompt=False))
    SlotFiles(tmp_path).write("tale", saved)
    with recording(llama_engine.open_llama_engine(settings)) as anew:
        # A slot that is not the one it was saved from, and that held something else.
        anew.run(spec("other", prompt_of(anew, "Another. " * 30), max_tokens=1))
        [into] = [slot for slot, held in enumerate(anew.engine.held_tokens) if held]
        anew.engine.restore_slot(into, SlotFiles(tmp_path).read("tale")[0])
        assert answer(anew, turn) == (HELD_TOKENS, tokens, told)
        # Without what was restored, nothing of the prompt was there.
        anew.engine.erase_slot(into)
        assert answer(anew, turn) == (0, tokens, told)


def test_what_was_restored_can_be_taken_over(
    recorder: Recorder, prompt: tuple[int, ...], saved: SavedSlot
) -> None:
    (whole,) = recorder.run(spec("whole", prompt, cache_prompt=False))
    recorder.engine.restore_slot(SLOTS - 1, saved)
    rest = spec("rest", prompt, sampled=whole[:3])
    assert answer(recorder, rest)[:2] == (HELD_TOKENS, whole[3:])


def test_a_cache_among_others_in_number_is_not_read(settings: Any, saved: SavedSlot) -> None:
    fewer = llama_engine.open_llama_engine(replace(settings, slots=SLOTS - 1))
    reason = "another number of KV caches: 3, here it is 2"
    with recording(fewer), pytest.raises(SavedUnfit, match=reason):
        fewer.restore_slot(0, saved)


def test_what_llama_cpp_does_not_take_leaves_an_empty_slot(
    recorder: Recorder, prompt: tuple[int, ...], saved: SavedSlot
) -> None:
    recorder.engine.restore_slot(0, saved)
    with pytest.raises(SavedUnfit):
        recorder.engine.restore_slot(0, replace(saved, data=saved.data[: len(saved.data) // 2]))
    assert recorder.engine.held_tokens[0] == 0
    recorder.engine.restore_slot(0, saved)
    assert answer(recorder, spec("after", prompt))[0] == HELD_TOKENS
