"""Typed reading of a JSON object's fields; every mistake is named by its field. Pure.

``null`` counts as absent. *Hard* limits refuse, *soft* ones clamp, as llama.cpp's do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.problems import RequestInvalid

INT_MAX = 2**31 - 1
"""Numbers go to C; a larger one would wrap there."""

FLOAT_MAX = 1e6
"""Beyond any sense; a larger one would overflow a 32-bit float."""

_NAMES = {bool: "a boolean", str: "a string", list: "an array", dict: "an object"}


def type_name(value: Any) -> str:
    """What JSON calls the value."""
    if value is None:
        return "null"
    return _NAMES.get(type(value), "a number")


def is_number(value: Any) -> bool:
    """Whether JSON calls it a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def mistyped(name: str, expected: str, value: Any) -> RequestInvalid:
    """The error for a field of the wrong type."""
    return RequestInvalid(f"Field '{name}': expected {expected}, but got {type_name(value)}")


def out_of_range(name: str, low: float, high: float, value: float) -> RequestInvalid:
    """The error for a field beyond a hard limit, in llama.cpp's words."""
    return RequestInvalid(
        f"Field '{name}': Value must be between {low} <= value <= {high}, but got {value}"
    )


class Fields:
    """The fields of one object. ``prefix`` stands before each name in errors."""

    def __init__(self, raw: Mapping[str, Any], prefix: str = "") -> None:
        self._raw = raw
        self._prefix = prefix

    def get(self, name: str) -> Any:
        """The raw value, None where it is absent."""
        return self._raw.get(name)

    def boolean(self, name: str, default: bool = False) -> bool:
        """A JSON boolean."""
        value = self._raw.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise mistyped(self._prefix + name, "a boolean", value)
        return value

    def text(self, name: str, default: str = "") -> str:
        """A JSON string."""
        value = self._raw.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise mistyped(self._prefix + name, "a string", value)
        return value

    def object(self, name: str) -> Fields:
        """A JSON object's fields; none where it is absent."""
        value = self._raw.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise mistyped(self._prefix + name, "an object", value)
        return Fields(value, f"{self._prefix}{name}.")

    def number(self, name: str, default: float, *, low: float, high: float = FLOAT_MAX) -> float:
        """A number, clamped."""
        return float(min(max(self._number(name, default), low), high))

    def bounded_number(self, name: str, default: float, *, low: float, high: float) -> float:
        """A number within hard limits."""
        value = self._number(name, default)
        if not low <= value <= high:
            raise out_of_range(self._prefix + name, low, high, value)
        return float(value)

    def _number(self, name: str, default: float) -> float:
        value: Any = self._raw.get(name)
        if value is None:
            return default
        if not is_number(value):
            raise mistyped(self._prefix + name, "a number", value)
        number: float = value
        return number

    def integer(self, name: str, default: int) -> int:
        """An integer of any size; ``40.0`` is one."""
        value = self._raw.get(name)
        if value is None:
            return default
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            raise mistyped(self._prefix + name, "an integer", value)
        return int(value)

    def bounded(self, name: str, default: int, *, low: int, high: int = INT_MAX) -> int:
        """An integer within hard limits."""
        value = self.integer(name, default)
        if not low <= value <= high:
            raise out_of_range(self._prefix + name, low, high, value)
        return value

    def clamped(self, name: str, default: int, *, low: int, high: int = INT_MAX) -> int:
        """An integer, clamped."""
        return min(max(self.integer(name, default), low), high)

    def first_of(self, names: tuple[str, ...]) -> str:
        """The first of the aliases that is present, else the last."""
        return next((name for name in names if self._raw.get(name) is not None), names[-1])
