"""A job's name and score: exact, whatever clocks say."""

from __future__ import annotations

from arq.utils import to_unix_ms
from hypothesis import given
from hypothesis import strategies as st

from replay.identity import SessionRef
from replay.queue import due_at, job_id


@given(st.integers(1, 10**11))
def test_arqs_score_is_the_number_itself(number: int) -> None:
    assert to_unix_ms(due_at(number)) == number


@given(st.integers(1, 10**11))
def test_a_number_is_always_due(number: int) -> None:
    assert due_at(number).year < 1974  # arq compares it with a worker's clock


@given(st.integers(1, 2**53), st.integers(1, 99), st.integers(1, 2**53), st.integers(1, 99))
def test_every_dispatch_has_an_id_of_its_own(
    epoch: int, dispatch: int, other_epoch: int, other_dispatch: int
) -> None:
    one = job_id(SessionRef("t", "c:1", "m", epoch), dispatch)
    other = job_id(SessionRef("t", "c:1", "m", other_epoch), other_dispatch)
    assert (one == other) == ((epoch, dispatch) == (other_epoch, other_dispatch))


def test_the_session_is_read_back_from_the_jobs_argument() -> None:
    ref = SessionRef("t", "a/b::c", "org/m:Q4", 12)
    path, _, dispatch = job_id(ref, 3).rpartition(":")
    assert (SessionRef.from_path(path), dispatch) == (ref, "3")
