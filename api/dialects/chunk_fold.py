"""What the folds of OpenAI's two chunked dialects share. Pure."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from api.dialects import Fold
from replay.request import GenerationRequest

SHARED = (
    *("created", "model", "system_fingerprint", "object", "usage", "id"),
    *("__verbose", "timings"),
)
"""What is said once of all choices, in llama.cpp's order."""


class ChunkFold(Fold):
    """A stream of OpenAI's chunks as the JSON of ``stream: false``; subclasses know the choices."""

    def __init__(self, request: GenerationRequest) -> None:
        super().__init__()
        self._choices: dict[int, dict[str, Any]] = {}
        self._shared: dict[str, Any] = {}

    def take(self, event: dict[str, Any]) -> None:
        """See ``Fold``."""
        for choice in event.pop("choices"):
            self.take_choice(choice)
        self._shared.update(event)

    @abstractmethod
    def take_choice(self, choice: dict[str, Any]) -> None:
        """Takes what one chunk says of a choice."""

    @abstractmethod
    def choice(self, index: int, at: dict[str, Any]) -> dict[str, Any]:
        """A choice as the whole answer has it, ``at`` being what was gathered of it."""

    def answer(self) -> dict[str, Any]:
        """The whole answer, in llama.cpp's key order."""
        choices = [self.choice(index, at) for index, at in sorted(self._choices.items())]
        return {"choices": choices, **{n: self._shared[n] for n in SHARED if n in self._shared}}
