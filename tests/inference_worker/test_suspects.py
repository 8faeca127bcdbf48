"""Sessions that a worker died with: claimed together, tried one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from inference_worker import suspects
from inference_worker.session import Session
from inference_worker.suspects import Suspects
from replay.errors import LogUnavailable
from replay.log_values import ClaimStatus

LIMIT_S = 30.0

pytestmark = pytest.mark.anyio


class Desk:
    """A worker's suspects, with a log that answers what the test says."""

    def __init__(self) -> None:
        self.answers: dict[str, list[ClaimStatus | Exception]] = {}
        self.entered: list[str] = []
        self.submitted: list[str] = []
        self.refused: list[tuple[str, ClaimStatus]] = []
        log: Any = SimpleNamespace(enter=self._enter)
        self.suspects = Suspects(log, submit=self._submit, refused=self._refuse)

    async def _enter(self, claim: Any) -> ClaimStatus:
        self.entered.append(claim)
        answers = self.answers.get(claim, [])
        answer = answers.pop(0) if answers else ClaimStatus.RENEWED
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _submit(self, session: Session) -> None:
        session.is_waiting = False
        self.submitted.append(str(session.claim))

    def _refuse(self, session: Session, status: ClaimStatus) -> None:
        self.refused.append((str(session.claim), status))
        if status is ClaimStatus.FENCED:
            session.left.set()

    def add(self, name: str, engine: Any = None) -> Session:
        outlet: Any = SimpleNamespace(trusted=asyncio.Event(), closed=asyncio.Event())
        unused: Any = None
        session = Session(name, engine, unused, outlet, unused)  # type: ignore[arg-type]
        self.suspects.add(session)
        return session

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while True:
                if condition():
                    return
                await asyncio.sleep(0)  # a task tells nobody


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(suspects, "ENTER_RETRY_S", 0)
    one = Desk()
    task = asyncio.create_task(one.suspects.run())
    try:
        yield one
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_next_enters_when_the_one_before_is_trusted(desk: Desk) -> None:
    first, second = desk.add("first"), desk.add("second")
    await desk.until(lambda: desk.submitted)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (desk.submitted, desk.entered) == (["first"], ["first"])
    first.outlet.trusted.set()
    await desk.until(lambda: len(desk.submitted) == 2)
    assert not second.is_waiting


async def test_what_has_ended_must_have_left_its_engine(desk: Desk) -> None:
    """A sequence that still stops could take the worker with it."""
    first, _ = desk.add("first"), desk.add("second")
    await desk.until(lambda: desk.submitted)
    first.outlet.closed.set()
    first.outlet.trusted.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert desk.submitted == ["first"]
    first.left.set()
    await desk.until(lambda: desk.submitted == ["first", "second"])


async def test_who_has_left_while_it_waited_is_passed_over(desk: Desk) -> None:
    first, second, third = desk.add("first"), desk.add("second"), desk.add("third")
    await desk.until(lambda: desk.submitted)
    second.left.set()
    first.outlet.trusted.set()
    await desk.until(lambda: desk.submitted == ["first", "third"])
    assert desk.entered == ["first", "third"]
    assert not third.is_waiting


async def test_one_that_the_log_refuses_never_enters(desk: Desk) -> None:
    desk.answers["first"] = [ClaimStatus.FENCED]
    desk.add("first"), desk.add("second")
    await desk.until(lambda: desk.submitted == ["second"])
    assert desk.refused == [("first", ClaimStatus.FENCED)]


async def test_a_log_that_is_away_or_has_forgotten_is_asked_again(desk: Desk) -> None:
    """A trial that nobody has noted would not count."""
    desk.answers["first"] = [LogUnavailable("away"), ClaimStatus.FORGOTTEN]
    desk.add("first")
    await desk.until(lambda: desk.submitted == ["first"])
    assert len(desk.entered) == 3
    assert desk.refused == [("first", ClaimStatus.FORGOTTEN)]


async def test_who_waits_keeps_a_slot_of_its_engine(desk: Desk) -> None:
    one, other = object(), object()
    first = desk.add("first", one)
    desk.add("second", one)
    third = desk.add("third", other)
    await desk.until(lambda: desk.submitted)
    assert [desk.suspects.waiting_for(engine) for engine in (one, other)] == [1, 1]
    third.left.set()
    assert desk.suspects.waiting_for(other) == 0
    first.outlet.trusted.set()
    await desk.until(lambda: desk.suspects.waiting_for(one) == 0)
