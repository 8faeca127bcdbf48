"""One session that a worker produces: its claim, its way into the log, its sequence."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from inference_worker.engine import Engine, SequenceSpec
from inference_worker.outlet import Outlet
from inference_worker.rendering import Renderer
from replay.log import AppendStatus, Claim
from replay.records import SessionRecord


@dataclass(slots=True, eq=False)
class Session:
    """Owned by the event loop. ``lost`` says why it is no longer ours, ``left`` that it was let go.

    ``is_waiting``: it has not been submitted to its engine yet.
    """

    claim: Claim
    engine: Engine
    renderer: Renderer
    outlet: Outlet
    record: SessionRecord
    spec: SequenceSpec
    lost: AppendStatus | None = None
    is_waiting: bool = True
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_suspect(self) -> bool:
        """Whether a worker died with it."""
        return self.record.deaths > 0

    def submit(self) -> None:
        """Raises EngineError."""
        self.is_waiting = False
        self.engine.submit(self.spec)

    def end_thought(self) -> None:
        """Its thought ends with its next token."""
        thought = self.spec.thought
        if self.is_waiting and thought:
            self.spec = replace(self.spec, thought=replace(thought, is_over=True))
        else:
            self.engine.end_thought(self.spec.id)

    def stop(self) -> None:
        """Its sequence ends within one token; the engine says when."""
        self.engine.stop(self.spec.id)
