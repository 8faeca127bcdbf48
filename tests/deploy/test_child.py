"""One child: patience between restarts, how an ending is told, what is shown of a log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploy.local import child as child_module
from deploy.local.child import Backoff, Child, ending
from deploy.local.commands import Command

ENDS_MAX_S = 10.0


def ended(child: Child) -> int:
    """Waits until a child has ended and reaps it; its return code."""
    assert child._running is not None
    child._running.wait(ENDS_MAX_S)
    code = child.reap(now_s=1.0)
    assert code is not None
    return code


def python(tmp_path: Path, program: str) -> Child:
    command = Command(
        name="c", argv=(sys.executable, "-c", program), log=tmp_path / "log" / "c.log"
    )
    return Child(command)


def test_waits_double_up_to_a_limit() -> None:
    backoff = Backoff()
    assert [backoff.after_death(0.1) for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_child_that_dies_all_day_still_has_a_finite_wait() -> None:
    assert Backoff(deaths=100_000).after_death(0.1) == 5.0


def test_a_steady_life_makes_earlier_deaths_forgotten() -> None:
    backoff = Backoff(deaths=6)
    assert backoff.after_death(30.0) == 0.2
    assert backoff.deaths == 1


@pytest.mark.parametrize(
    ("code", "told"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-250, "signal 250")],
)
def test_endings_are_told_in_words(code: int, told: str) -> None:
    assert ending(code) == told


def test_an_ending_is_reaped_once_and_sets_the_time_of_the_next_start(tmp_path: Path) -> None:
    child = python(tmp_path, "import sys; sys.exit(3)")
    child.start(now_s=0.0)
    assert ended(child) == 3
    assert child.pid is None
    assert child.restart_at_s == pytest.approx(1.2)
    assert child.reap(now_s=2.0) is None


def test_last_words_are_those_of_this_run(tmp_path: Path) -> None:
    child = python(tmp_path, "import os; print('I am', os.getpid())")
    child.start(now_s=0.0)
    ended(child)
    first = child.last_words()
    child.start(now_s=0.0)
    ended(child)
    assert len(child.last_words()) == 1
    assert child.last_words() != first


def test_last_words_are_few_however_much_was_said(tmp_path: Path) -> None:
    child = python(tmp_path, "for i in range(100_000): print('line', i)")
    child.start(now_s=0.0)
    ended(child)
    assert len(child.last_words()) == child_module.TAIL_LINES
    assert child.last_words()[-1] == "line 99999"


def test_a_log_grown_too_long_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES_MAX", 10)
    log = tmp_path / "c.log"
    log.write_bytes(b"x" * 10)
    assert child_module.make_room(log) == 10
    log.write_bytes(b"x" * 11)
    assert child_module.make_room(log) == 0
    assert (tmp_path / "c.log.1").read_bytes() == b"x" * 11
