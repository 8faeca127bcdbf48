"""What is kept in free slots, saved from them and restored to them; no thread runs here."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from inference_worker.engine import EngineFailed, SavedUnfit, SequenceSpec, SlotBusy
from inference_worker.model import SlotsExhausted
from inference_worker.scripted_engine import ScriptedModel, open_scripted_engine
from inference_worker.slot_caches import SlotCaches
from inference_worker.slots import Held, Slots
from replay.request import SamplingParams

CHUNK = 4
CONTEXT_TOKENS = 64
HELD = tuple(range(20))


class Trimmed(ScriptedModel):
    """Notes what it is asked to keep, and may be told what to do while it loads a cache."""

    def __init__(self) -> None:
        super().__init__(open_scripted_engine(slots=2, context_tokens=CONTEXT_TOKENS).model)
        self.trims: list[tuple[int, int]] = []
        self.on_load: Any = lambda: None
        self.lost_tokens = 0

    def trim(self, slot: int, tokens: int) -> int:
        self.trims.append((slot, tokens))
        return tokens - self.lost_tokens if tokens else 0

    def load_cache(self, slot: int, data: bytes | memoryview) -> None:
        self.on_load()
        super().load_cache(slot, data)


class Kept:
    """Two slots; the first holds something."""

    def __init__(self) -> None:
        self.model = Trimmed()
        self.slots = Slots(2, chunk_tokens=CHUNK)
        self.slots.give(self.take(), Held(HELD))
        self.caches = SlotCaches(self.model, self.slots, threading.Lock(), chunk_tokens=CHUNK)

    def take(self, prompt: tuple[int, ...] = HELD) -> int:
        return self.slots.take(SequenceSpec("one", prompt, SamplingParams(seed=1))).slot

    @property
    def held(self) -> dict[int, int]:
        return {slot: len(held.tokens) for slot, held in self.slots.held().items()}


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_what_a_slot_holds_is_saved_and_stays(kept: Kept) -> None:
    saved = kept.caches.save(0)
    assert (saved.tokens, bool(saved.data)) == (HELD, True)
    assert (kept.held, kept.model.trims) == ({0: 20, 1: 0}, [])


def test_what_was_saved_is_what_the_next_prompt_begins_with(kept: Kept) -> None:
    kept.caches.restore(1, kept.caches.save(0))
    assert kept.model.trims == [(1, 0), (1, 20)]
    kept.caches.erase(0)
    place = kept.slots.take(SequenceSpec("two", (*HELD, 7), SamplingParams(seed=1)))
    assert (place.slot, place.cached_tokens) == (1, 20)


def test_erasing_tells_how_much_there_was(kept: Kept) -> None:
    assert [kept.caches.erase(0), kept.caches.erase(0)] == [20, 0]
    assert (kept.held, kept.model.trims) == ({0: 0, 1: 0}, [(0, 0), (0, 0)])


def test_a_slot_that_holds_nothing_is_saved_and_restored_as_that(kept: Kept) -> None:
    nothing = kept.caches.save(1)
    assert (nothing.tokens, nothing.data) == ((), b"")
    kept.caches.restore(0, nothing)
    assert kept.held == {0: 0, 1: 0}


@pytest.mark.parametrize("action", ["save", "erase", "restore"])
def test_a_slot_in_use_is_left_alone(kept: Kept, action: str) -> None:
    saved = kept.caches.save(0)
    assert kept.take() == 0
    with pytest.raises(SlotBusy):
        getattr(kept.caches, action)(0, *([saved] if action == "restore" else []))
    assert kept.model.trims == []


def test_a_slot_that_is_taken_while_it_is_restored_counts_on_nothing(kept: Kept) -> None:
    saved = kept.caches.save(0)
    taken: list[int] = []
    kept.model.on_load = lambda: taken.extend((kept.take((99,)), kept.take((98,))))
    with pytest.raises(SlotBusy):
        kept.caches.restore(0, saved)
    assert sorted(taken) == [0, 1]
    assert kept.held == {}


def test_a_cache_without_room_stays_empty(kept: Kept) -> None:
    def refuse() -> None:
        raise SlotsExhausted

    saved, kept.model.on_load = kept.caches.save(0), refuse
    with pytest.raises(SavedUnfit, match="no room"):
        kept.caches.restore(0, saved)
    assert kept.held == {0: 0, 1: 0}


def test_what_is_not_there_after_all_is_not_counted_on(kept: Kept) -> None:
    saved, kept.model.lost_tokens = kept.caches.save(0), 4
    with pytest.raises(EngineFailed):
        kept.caches.restore(1, saved)
    assert kept.held == {0: 20, 1: 0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"made_by": {"model": "another", "chunk": "4 tokens"}}, "another model: another, here"),
        ({"made_by": {}}, "another model: nothing, here"),
        ({"tokens": HELD[:-1]}, "cannot hold 19 tokens"),
        ({"tokens": HELD * 4}, "cannot hold 80 tokens"),
        ({"tokens": (*HELD[:-1], 100_000)}, "tokens that the model does not have"),
    ],
    ids=["other model", "nothing known", "half a chunk", "too many", "unknown token"],
)
def test_what_does_not_fit_touches_nothing(kept: Kept, change: Any, reason: str) -> None:
    saved = replace(kept.caches.save(0), **change)
    with pytest.raises(SavedUnfit, match=reason):
        kept.caches.restore(0, saved)
    assert (kept.held, kept.model.trims) == ({0: 20, 1: 0}, [])


def test_a_cache_in_other_chunks_is_of_no_use(kept: Kept) -> None:
    caches = SlotCaches(kept.model, kept.slots, threading.Lock(), chunk_tokens=5)
    with pytest.raises(SavedUnfit, match="another chunk: 4 tokens, here it is 5 tokens"):
        caches.restore(0, kept.caches.save(0))
