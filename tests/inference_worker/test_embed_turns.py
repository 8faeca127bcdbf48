"""Embedding beside answers: one batch at a time, and never at their expense alone."""

from __future__ import annotations

import time

import pytest

from inference_worker.embed_turns import EmbedBatch, EmbedTurns
from inference_worker.engine import EngineFailed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a test lets pass."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def turns(clock: list[float], batch_s: float) -> tuple[EmbedTurns, list[EmbedBatch]]:
    """Three batches that wait, each of which takes so long."""

    def embed(inputs: object) -> list[list[list[float]]]:
        clock[0] += batch_s
        return [[[1.0]]]

    made, waiting = EmbedTurns(embed), [EmbedBatch([[number]]) for number in range(3)]
    for batch in waiting:
        made.add(batch)
    return made, waiting


def done(batches: list[EmbedBatch]) -> int:
    return sum(batch.vectors.done() for batch in batches)


def test_what_is_alone_is_computed_at_once(clock: list[float]) -> None:
    made, waiting = turns(clock, batch_s=1.0)
    for number in (1, 2, 3):
        made.take_turn(is_alone=True)
        assert done(waiting) == number
    assert not made


def test_answers_get_as_much_time_as_a_batch_took(clock: list[float]) -> None:
    made, waiting = turns(clock, batch_s=2.0)
    made.take_turn(is_alone=False)
    clock[0] += 1.9
    made.take_turn(is_alone=False)
    assert done(waiting) == 1
    clock[0] += 0.1
    made.take_turn(is_alone=False)
    assert done(waiting) == 2


def test_at_the_end_all_that_wait_hear_of_it(clock: list[float]) -> None:
    made, waiting = turns(clock, batch_s=1.0)
    made.end(EngineFailed("the engine is closed"))
    for batch in waiting:
        with pytest.raises(EngineFailed):
            batch.vectors.result(0)
