"""Runs an engine and keeps the steps it tells of; every wait is bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from inference_worker.engine import Engine, Finish, SequenceSpec, Step

WAIT_S = 90.0


class Recorder:
    """Collects steps on the engine's thread; tests wait here for what they need."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: list[tuple[Step, ...]] = []
        self._changed = threading.Condition()

    def on_steps(self, steps: Sequence[Step]) -> None:
        with self._changed:
            self.calls.append(tuple(steps))
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), self.calls[-3:]

    def steps(self, sequence_id: str) -> list[Step]:
        return [step for call in self.calls for step in call if step.sequence_id == sequence_id]

    def tokens(self, sequence_id: str) -> tuple[int, ...]:
        return tuple(token for step in self.steps(sequence_id) for token in step.tokens)

    def text(self, sequence_id: str) -> str:
        return "".join(step.text for step in self.steps(sequence_id))

    def finish(self, sequence_id: str) -> Finish | None:
        return next((step.finish for step in self.steps(sequence_id) if step.finish), None)

    def wait_finished(self, *sequence_ids: str) -> None:
        self.wait_for(lambda: all(self.finish(one) for one in sequence_ids))

    def run(self, *specs: SequenceSpec) -> list[tuple[int, ...]]:
        """Runs sequences together, from no steps recorded; returns what each sampled."""
        self.calls.clear()
        with self._changed:  # whoever is first waits with its first step for the others
            for spec in specs:
                self.engine.submit(spec)
        self.wait_finished(*(spec.id for spec in specs))
        return [self.tokens(spec.id) for spec in specs]


@contextmanager
def recording(engine: Engine) -> Iterator[Recorder]:
    recorder = Recorder(engine)
    engine.start(recorder.on_steps)
    try:
        yield recorder
    finally:
        engine.close()
