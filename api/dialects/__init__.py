"""One module for each dialect that clients speak: request in, generation request out. Pure.

A ``Dialect`` is all that its routes differ in; ``api.generations`` serves any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from replay import frames
from replay.request import Dialect as DialectName
from replay.request import GenerationRequest

__all__ = ["Dialect", "Fold", "Folding"]


class Fold(ABC):
    """Turns a log into the JSON of an answer that is not streamed. One for each answer.

    ``feed`` takes the log's bytes in whole frames; ``answer`` tells what they come to. ``error`` is
    the message of the error event, where one came.
    """

    def __init__(self) -> None:
        self.error: str | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        for frame in frames.split(data):
            if frames.is_comment(frame):
                continue
            if (message := frames.error_of(frame)) is not None:
                self.error = message
            elif value := frames.value_of(frame):
                self.take(value)

    @abstractmethod
    def take(self, event: dict[str, Any]) -> None:
        """Takes what one event says."""

    @abstractmethod
    def answer(self) -> Any:
        """The whole answer, as JSON has it."""

    def so_far(self) -> Any:
        """The same of a log that has not ended: what has been said."""
        return self.answer()


class Parse(Protocol):
    """A body to the generation request that it means.

    Its model is the client's word for it, or "". ``random_seed`` is taken where the client leaves
    the seed to us. Raises RequestInvalid.
    """

    def __call__(self, body: Mapping[str, Any], *, random_seed: int) -> GenerationRequest: ...


class Folding(Protocol):
    """A new fold of the log that answers a request."""

    def __call__(self, request: GenerationRequest) -> Fold: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one dialect asks and answers; ``id_prefix`` begins the ids of its answers, ``names`` are
    those of its fields where they become a chat's (see ``as_chat.in_own_words``).

    How it tells of errors follows from the route's path before a request is read
    (``api.problems``), and from its name in a log (``replay.frames``).
    """

    name: DialectName
    id_prefix: str
    parse: Parse
    fold: Folding
    names: Mapping[str, str] = field(default_factory=dict)
