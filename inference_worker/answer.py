"""What a model's text is parsed into, whatever the dialect: content, thoughts, tool calls.

Pure. A parser is a function of the text alone, however it is cut, because a takeover replays it.
It must not know tokens, engines or dialects; which parser a session has, ``parsers`` tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallBegun:
    """A call, told once its name is known; ``index`` counts the answer's calls from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """More of a call's arguments: a piece of JSON."""

    index: int
    text: str


Delta = ContentDelta | ReasoningDelta | ToolCallBegun | ToolArguments


class AnswerParser(Protocol):
    """Parses one answer. It may hold text back until it knows what it is."""

    def feed(self, text: str) -> list[Delta]:
        """Takes the next text and returns what it is known to be now; no delta is empty."""
        ...

    def finish(self, *, is_cut: bool = False) -> list[Delta]:
        """What is still held back: nothing follows, though more would have where it ``is_cut``."""
        ...


class PlainParser:
    """All is content."""

    def feed(self, text: str) -> list[Delta]:
        """See ``AnswerParser.feed``."""
        return [ContentDelta(text)] if text else []

    def finish(self, *, is_cut: bool = False) -> list[Delta]:
        """See ``AnswerParser.finish``."""
        return []
