"""Ids for EventSource: each frame is sent with where to go on behind it. Pure.

The log has no ids; they are written at delivery, into each frame, and count in no offset. A
browser gives the last one back as ``Last-Event-ID`` when it comes again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from replay.identity import SessionRef

HEADER = "Last-Event-ID"
ID = re.compile(r"([1-9][0-9]{0,18})-([0-9]{1,18})")
FRAME_END = b"\n\n"


class Stored(Protocol):
    """Stored bytes; ``Chunk`` and ``Block`` are such."""

    @property
    def start(self) -> int:
        """The offset of the first byte."""
        ...

    @property
    def data(self) -> bytes:
        """The bytes."""
        ...


@dataclass(frozen=True, slots=True)
class EventId:
    """A place in a session's log: all before ``offset`` has been received."""

    epoch: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Raises ValueError where it is none of ours."""
        if (found := ID.fullmatch(text)) is None:
            raise ValueError(text)
        return cls(int(found[1]), int(found[2]))


class EventIds:
    """A coding of one log (see ``stream_response.Coding``) that ends each frame with its id.

    Behind the frame's other lines: so it is true wherever a reader begins, between two empty lines
    as well. Of a reader who begins within a frame, the rest of it is the first.
    """

    def __init__(self, ref: SessionRef) -> None:
        self._epoch = ref.epoch
        self._held = b""

    def feed(self, stored: Stored) -> bytes:
        """The next frames that are whole; what is begun waits for its rest."""
        at = stored.start - len(self._held)
        *frames, self._held = (self._held + stored.data).split(FRAME_END)
        told = []
        for frame in frames:
            at += len(frame) + len(FRAME_END)
            told.append(b"%b\nid: %d-%d%b" % (frame, self._epoch, at, FRAME_END))
        return b"".join(told)

    def finish(self) -> bytes:
        """What is left."""
        return self._held
