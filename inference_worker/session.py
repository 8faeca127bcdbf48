"""One session that a worker produces: its claim, its way into the log, its choices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference_worker.choices import Choice, Stage
from inference_worker.engine import Engine
from inference_worker.outlet import Outlet
from replay.cluster import SlotRecord
from replay.log_values import AppendStatus, Claim
from replay.records import Reason, SessionRecord


@dataclass(slots=True, eq=False)
class Session:
    """Owned by the event loop. ``lost`` says why it is no longer ours, ``left`` that it was let go.

    ``is_waiting``: it has not been submitted to its engine yet. ``held`` is what choices ended with
    that had no token left to say so: it is told with the last of them. It was claimed at
    ``claimed_ms`` by Redis's clock, at ``claimed_s`` by this machine's, which nobody can set.
    """

    claim: Claim
    engine: Engine
    choices: Sequence[Choice]
    outlet: Outlet
    record: SessionRecord
    lost: AppendStatus | None = None
    is_waiting: bool = True
    held: bytes = b""
    claimed_ms: int = 0
    claimed_s: float = field(default_factory=time.monotonic)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def now_ms(self) -> int:
        """The time by Redis's clock, as it has gone on since the claim."""
        return self.claimed_ms + int(1000 * (time.monotonic() - self.claimed_s))

    @property
    def is_suspect(self) -> bool:
        """Whether a worker died with it."""
        return self.record.deaths > 0

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs, or will."""
        return all(choice.stage is Stage.OVER for choice in self.choices)

    @property
    def is_complete(self) -> bool:
        """Whether all its choices have come to their own end, not to that of their worker."""
        return all(choice.has_ended for choice in self.choices)

    @property
    def reason(self) -> Reason:
        """Why it is complete: "length" where any choice was cut by it."""
        is_cut = any(choice.is_cut for choice in self.choices)
        return Reason.LENGTH if is_cut else Reason.STOP

    @property
    def wanted_slots(self) -> int:
        """How many of its choices wait for a slot, once it has entered its engine."""
        return 0 if self.is_waiting else len(self._of(Stage.WAITING))

    def busy(self) -> list[SlotRecord]:
        """The slots that it has."""
        return [
            SlotRecord(
                self.claim.ref.path(),
                choice.index,
                slot=choice.slot,
                prompt_tokens=len(choice.spec.prompt),
                prompt_tokens_done=choice.prompt_tokens_done,
                prompt_tokens_cached=choice.prompt_tokens_cached,
                tokens=choice.tokens,
                max_tokens=choice.spec.max_tokens,
            )
            for choice in self._of(Stage.RUNNING)
        ]

    def submit(self, room: int) -> None:
        """Submits as many of its choices as there is room for, one at least. Raises EngineError."""
        self.is_waiting = False
        for choice in self._of(Stage.WAITING)[: max(1, room)]:
            choice.slot = self.engine.submit(choice.spec)
            choice.stage = Stage.RUNNING

    def end_thought(self) -> None:
        """Its thoughts end with their next tokens."""
        for choice in self._of(Stage.RUNNING):
            self.engine.end_thought(choice.spec.id)
        for choice in self._of(Stage.WAITING):
            choice.think_no_more()

    def stop(self) -> None:
        """Its sequences end within one token; the engine says when. What waits does not begin."""
        for choice in self._of(Stage.RUNNING):
            self.engine.stop(choice.spec.id)
        for choice in self._of(Stage.WAITING):
            choice.stage = Stage.OVER

    def _of(self, stage: Stage) -> list[Choice]:
        return [choice for choice in self.choices if choice.stage is stage]
