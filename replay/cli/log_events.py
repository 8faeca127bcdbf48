"""Reads a log's bytes as events: comments, data, the text inside. Pure.

The one reader of text of the command line; it is called where the text was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

FRAME_END = b"\n\n"
DONE = b"[DONE]"


class EventSplitter:
    """Cuts a log into its frames, wherever its bytes were cut. Owned by one reader."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that these bytes complete, without the empty line at their end."""
        *whole, self._rest = (self._rest + data).split(FRAME_END)
        return whole


def comment_of(frame: bytes) -> str | None:
    """What a comment says, "" for a bare keep-alive; None where the frame is no comment."""
    if not frame.startswith(b":"):
        return None
    return frame[1:].strip().decode("utf-8", "replace")


def data_of(frame: bytes) -> Any:
    """The JSON of a frame; None where it has none: a comment, ``[DONE]``, half a frame."""
    lines = [line[5:].strip() for line in frame.split(b"\n") if line.startswith(b"data:")]
    body = b"\n".join(lines)
    if not body or body == DONE:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return None


def _chat_text(event: dict[str, Any]) -> str:
    first = [choice for choice in event.get("choices") or () if choice.get("index", 0) == 0]
    deltas = [choice.get("delta") or {} for choice in first]
    return "".join((d.get("reasoning_content") or "") + (d.get("content") or "") for d in deltas)


TEXT_OF: dict[str, Callable[[dict[str, Any]], str]] = {"openai.chat": _chat_text}
"""For each dialect: the text of one event, the first choice's where there are several."""


def texts(frames: list[bytes], dialect: str) -> Iterator[str]:
    """The pieces of the answer's text, in order. Raises KeyError for an unknown dialect."""
    text_of = TEXT_OF[dialect]
    for frame in frames:
        event = data_of(frame)
        if isinstance(event, dict) and (text := text_of(event)):
            yield text
