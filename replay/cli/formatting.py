"""How numbers, times and ids look to a person. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

SHOWN_CHARACTERS = 8
"""How much of an id is shown unless it is asked for whole."""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
KIB = 1024


def shortened(identity: str, *, full: bool = False) -> str:
    """An id's first characters: enough to tell it by, not enough to tell whose it is."""
    if full or len(identity) <= SHOWN_CHARACTERS:
        return identity
    return identity[:SHOWN_CHARACTERS] + "…"


def printable(text: str) -> str:
    """One line in which nothing steers a terminal: no control, no line break, no hidden mark."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def harmless(text: str) -> str:
    """Text of several lines in which no control character steers a terminal."""
    return CONTROL.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def size(count: int) -> str:
    """Bytes, in the unit that keeps it short."""
    if count < KIB:
        return f"{count} B"
    if count < KIB * KIB:
        return f"{count / KIB:.1f} KiB"
    return f"{count / KIB / KIB:.1f} MiB"


def duration(span_ms: int) -> str:
    """How long, in one unit, and never less than two of it but for seconds."""
    seconds = max(0, span_ms) // 1000
    for unit, seconds_each in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * seconds_each:
            return f"{seconds // seconds_each}{unit}"
    return f"{seconds}s"


def moment(time_ms: int, now_ms: int) -> str:
    """A time in UTC, and how far it is from now; "-" where it is not known (0)."""
    if time_ms <= 0:
        return "-"
    written = datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if time_ms > now_ms:
        return f"{written} (in {duration(time_ms - now_ms)})"
    return f"{written} ({duration(now_ms - time_ms)} ago)"


def state(name: str, reason: str) -> str:
    """``stopped(client)``, or the state alone."""
    return f"{name}({reason})" if reason else name
