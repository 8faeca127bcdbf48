"""A log as any client understands it: frames in, what they say out. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DONE = b"data: [DONE]"


@dataclass(slots=True)
class Told:
    """A log as a client understands it."""

    text: str = ""
    usage: list[dict[str, Any]] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    errors: int = 0
    ends: list[dict[str, str]] = field(default_factory=list)
    dones: int = 0
    last: bytes = b""
    faults: list[str] = field(default_factory=list)


def parse_log(log: bytes) -> Told:
    """Reads a whole log frame by frame. Raises ValueError where it is none."""
    told = Told()
    if not log:
        return told
    if not log.endswith(b"\n\n"):
        raise ValueError(f"it does not end with a frame: {log[-40:]!r}")
    heads = set()
    roles = 0
    for frame in log.removesuffix(b"\n\n").split(b"\n\n"):
        told.last = frame
        if frame.startswith(b":"):
            if frame.startswith(b": end "):
                told.ends.append(json.loads(frame[6:]))
        elif frame == DONE:
            told.dones += 1
        else:
            chunk = _json_of(frame)
            if "error" in chunk:
                told.errors += 1
                continue
            heads.add((chunk["id"], chunk["created"], chunk["model"]))
            roles += _take(chunk, told)
    if len(heads) > 1:
        told.faults.append(f"its frames name several answers: {sorted(heads)}")
    if roles > 1 or (told.text and not roles):
        told.faults.append(f"{roles} role frames")
    return told


def _json_of(frame: bytes) -> dict[str, Any]:
    if not frame.startswith(b"data: {"):
        raise ValueError(f"this is no frame: {frame[:80]!r}")
    chunk: dict[str, Any] = json.loads(frame[6:].decode("utf-8"))
    return chunk


def _take(chunk: Mapping[str, Any], told: Told) -> int:
    """Adds one chunk; 1 where it is the role's."""
    if chunk.get("usage"):
        told.usage.append(chunk["usage"])
    roles = 0
    for choice in chunk["choices"]:
        if told.finishes and choice["delta"]:
            told.faults.append("content after the finish")
        if choice["finish_reason"]:
            told.finishes.append(choice["finish_reason"])
        roles += "role" in choice["delta"]
        told.text += choice["delta"].get("content") or ""
    return roles


def begins(log: bytes, text: str) -> bool:
    """Whether these bytes by themselves are the beginning of a log of this answer.

    That is what a reader has whom Redis's forgetting has left with more than the log: what took the
    place of the rest (a stop's end, other timings) may differ, but nothing of it was spliced in.
    """
    try:
        told = parse_log(log[: log.rfind(b"\n\n") + 2])
    except ValueError:
        return False
    return not told.faults and text.startswith(told.text)


def completes(log: bytes, text: str) -> bool:
    """Whether they are a whole log: of a reader who had its end before Redis forgot it."""
    if not log.endswith(b"\n\n") or not begins(log, text):
        return False
    told = parse_log(log)
    ended = (told.dones, len(told.ends))
    return ended == (0, 1) or (ended == (1, 0) and told.text == text)
