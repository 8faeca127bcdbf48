"""Text to JSON, strictly. Pure.

What a record could not hold is refused or mended here, once: numbers that are none (``NaN``,
``1e999``), lone surrogates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

from replay.frames import LONE_SURROGATE

LEVELS_MAX = 200
"""How deep arrays and objects may stand in one another: what copies them recurses."""


def strict_json(text: str) -> Any:
    """The value that ``text`` writes down. Raises ValueError, which says why it is none."""
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        value = _mended(value) if "\\u" in text else value
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > LEVELS_MAX and _is_deep(value):
        raise ValueError(f"nested over {LEVELS_MAX} levels")
    return value


def call_arguments(text: str) -> dict[str, Any]:
    """The object that a model has written to call a tool; what is none, since it was cut or is
    wrong, is told as vendors have their clients tell it."""
    try:
        value = strict_json(text or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": text}


def _is_deep(value: Any) -> bool:
    """Looks level by level: a recursion would be what is to be ruled out."""
    level: list[Any] = [[value]]
    for _ in range(LEVELS_MAX + 1):
        level = [inner for outer in level for inner in _elements(outer) if _has_elements(inner)]
    return bool(level)


def _has_elements(value: Any) -> bool:
    return isinstance(value, dict | list)


def _elements(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _mended(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    mended = LONE_SURROGATE.sub("\ufffd", text)
    return value if mended == text else json.loads(mended)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number out of range: {text[:40]}")
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
