"""Work beside answers: one turn at a time, and never at their expense alone."""

from __future__ import annotations

import time

import pytest

from inference_worker.errors import EngineFailed
from inference_worker.turns import Turn, Turns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a test lets pass."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def turns(clock: list[float], turn_s: float) -> tuple[Turns, list[Turn[float]]]:
    """Three that wait, each of which takes so long."""

    def act() -> float:
        clock[0] += turn_s
        return clock[0]

    made, waiting = Turns(), [Turn(act) for _ in range(3)]
    for turn in waiting:
        made.add(turn)
    return made, waiting


def done(turns: list[Turn[float]]) -> int:
    return sum(turn.result.done() for turn in turns)


def test_what_is_alone_is_done_at_once(clock: list[float]) -> None:
    made, waiting = turns(clock, turn_s=1.0)
    for number in (1, 2, 3):
        made.take(is_alone=True)
        assert done(waiting) == number
    assert not made
    assert [turn.result.result(0) for turn in waiting] == [1.0, 2.0, 3.0]


def test_answers_get_as_much_time_as_a_turn_took(clock: list[float]) -> None:
    made, waiting = turns(clock, turn_s=2.0)
    made.take(is_alone=False)
    clock[0] += 1.9
    made.take(is_alone=False)
    assert done(waiting) == 1
    clock[0] += 0.1
    made.take(is_alone=False)
    assert done(waiting) == 2


def test_what_fails_fails_for_who_waits_for_it_alone(clock: list[float]) -> None:
    made, waiting = turns(clock, turn_s=1.0)
    broken: Turn[float] = Turn(lambda: 1 / 0)
    made.add(broken)
    for _ in range(4):
        made.take(is_alone=True)
    assert done(waiting) == 3
    with pytest.raises(ZeroDivisionError):
        broken.result.result(0)


def test_at_the_end_all_that_wait_hear_of_it(clock: list[float]) -> None:
    made, waiting = turns(clock, turn_s=1.0)
    made.end(EngineFailed("the engine is closed"))
    for turn in waiting:
        with pytest.raises(EngineFailed):
            turn.result.result(0)
