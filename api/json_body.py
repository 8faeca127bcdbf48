"""Request bytes to JSON, strictly. Pure.

What a record could not hold is refused or mended here, once: bytes that are no UTF-8, numbers that
are none (``NaN``, ``1e999``), lone surrogates.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from api.problems import RequestInvalid
from replay.frames import LONE_SURROGATE


def parse_json(body: bytes) -> Any:
    """The value that ``body`` writes down. Raises RequestInvalid."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestInvalid(f"invalid body: not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        return _mended(value) if "\\u" in text else value
    except RecursionError:
        raise RequestInvalid("invalid body: nested too deeply") from None
    except ValueError as error:
        raise RequestInvalid(f"invalid body: {error}") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """The same, for a body that must be an object."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise RequestInvalid("invalid body: expected a JSON object")
    return value


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
