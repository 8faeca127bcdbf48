"""What other threads ask of the engine's thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_worker.engine import SequenceSpec
from inference_worker.slots import Place
from inference_worker.turns import Turn


@dataclass(frozen=True, slots=True)
class Submit:
    """Runs a session in a place that is its own from now on."""

    spec: SequenceSpec
    place: Place


@dataclass(frozen=True, slots=True)
class Stop:
    """Ends a session early."""

    sequence_id: str


@dataclass(frozen=True, slots=True)
class EndThought:
    """Closes a session's thought."""

    sequence_id: str


@dataclass(frozen=True, slots=True)
class Close:
    """Ends all of them, and the thread."""


Command = Submit | Stop | EndThought | Turn[Any] | Close
