"""Request bytes to JSON, strictly. Pure."""

from __future__ import annotations

from typing import Any

from api.problems import RequestInvalid
from replay.strict_json import strict_json


def parse_json(body: bytes) -> Any:
    """The value that ``body`` writes down. Raises RequestInvalid."""
    try:
        return strict_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestInvalid(f"invalid body: not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise RequestInvalid(f"invalid body: {error}") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """The same, for a body that must be an object."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise RequestInvalid("invalid body: expected a JSON object")
    return value
