"""What would make a template's values grow beyond any prompt: refused before memory is taken. Pure.

A text or a list may become as long as a prompt may be, a number as large as 64 bits say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS

LENGTH_MAX = 16 * 1024 * 1024
"""Of a text in characters, of a list in elements."""

PADDING_MAX = 10_000
"""What a text may be padded to, and its lines indented by."""

NUMBER_MAX = 2**64
EXPONENT_MAX = 64

_WIDE_FIELD = re.compile(r"\{[^{}]*:[^{}]*([0-9]{5}|\{)")
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(\*|[0-9]{5})")
"""A width of five digits, or one that an argument tells."""

Operation = Callable[[Any, Any], Any]


def joined(texts: Iterable[str]) -> str:
    """All texts as one. Raises SecurityError where that is too long."""
    parts = list(texts)
    _check_length(sum(map(len, parts)))
    return "".join(parts)


def check_format(text: str) -> None:
    """Raises SecurityError for a ``str.format`` that pads without measure."""
    _check_format(_WIDE_FIELD, text)


def check_padding(arguments: Iterable[Any]) -> None:
    """Raises SecurityError where a number among them is no width of a text."""
    if any(isinstance(one, int | float) and one > PADDING_MAX for one in arguments):
        raise SecurityError(f"padded by over {PADDING_MAX}")


def checked_call(function: Any, arguments: Sequence[Any], named: Iterable[Any]) -> Sequence[Any]:
    """The arguments to call it with; ``named`` are the values of others. Raises SecurityError for a
    text's method whose result could be of any length."""
    text = getattr(function, "__self__", None)
    if not isinstance(text, str):
        return arguments
    # What comes one by one can be looked at once only.
    listed = [list(one) if isinstance(one, Iterator) else one for one in arguments]
    _check_text(function.__name__, text, [*listed, *named])
    return listed


def _check_text(method: str, text: str, arguments: Sequence[Any]) -> None:
    match method, arguments:
        case "join", [Collection() as parts, *_]:
            _check_join(text, parts)
        case "replace", [str() as old, str() as new, *_]:
            _check_length(len(text) + text.count(old) * len(new))
        case "translate", _:
            raise SecurityError("a text is not translated: each character may become any text")
        case "center" | "ljust" | "rjust" | "zfill" | "expandtabs", _:
            check_padding(arguments)


def _added(left: Any, right: Any) -> Any:
    """What is not there adds nothing to a text, as in llama.cpp's own jinja."""
    if isinstance(left, str) and _is_absent(right):
        return left
    if isinstance(right, str) and _is_absent(left):
        return right
    if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _check_length(len(left) + len(right))
    return left + right


def _is_absent(value: Any) -> bool:
    return value is None or isinstance(value, Undefined)


def _multiplied(left: Any, right: Any) -> Any:
    _check_numbers(left, right)
    return left * right


def _raised(left: Any, right: Any) -> Any:
    _check_numbers(left, right)
    if abs(right) > EXPONENT_MAX:
        raise SecurityError("the power is too large")
    return left**right


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        _check_format(_WIDE_PERCENT, left)
    return left % right


OPERATIONS: Mapping[str, Operation] = {
    "+": _added,
    "*": _multiplied,
    "**": _raised,
    "%": _remainder,
}
"""Instead of Python's own; each raises SecurityError where its result would be too large."""


def _replaced(context: Any, text: Any, old: Any, new: Any, count: int | None = None) -> Any:
    text, old, new = str(text), str(old), str(new)
    _check_length(len(text) + text.count(old) * len(new))
    return FILTERS["replace"](context, text, old, new, count)


def _join(context: Any, parts: Any, between: str = "", attribute: Any = None) -> Any:
    parts = list(parts)
    _check_join(str(between), parts)
    return FILTERS["join"](context, parts, between, attribute)


def _format(text: Any, *arguments: Any, **named: Any) -> Any:
    _check_format(_WIDE_PERCENT, str(text))
    return FILTERS["format"](text, *arguments, **named)


def _padding(name: str) -> Callable[..., Any]:
    @wraps(FILTERS[name])
    def padded(*arguments: Any, **named: Any) -> Any:
        check_padding([*arguments, *named.values()])
        return FILTERS[name](*arguments, **named)

    return padded


FILTERS_BOUND: Mapping[str, Callable[..., Any]] = {
    "replace": wraps(FILTERS["replace"])(_replaced),
    "join": wraps(FILTERS["join"])(_join),
    "format": _format,
    **{name: _padding(name) for name in ("indent", "center", "batch", "slice")},
}
"""Instead of jinja's own; each raises SecurityError where its result would be too long."""


def _check_length(length: int) -> None:
    if length > LENGTH_MAX:
        raise SecurityError(f"longer than {LENGTH_MAX}")


def _check_format(wide: re.Pattern[str], text: str) -> None:
    if wide.search(text):
        raise SecurityError("a format that is too wide")


def _check_join(between: str, parts: Collection[Any]) -> None:
    _check_length(len(between) * len(parts) + sum(len(str(part)) for part in parts))


def _check_numbers(*operands: Any) -> None:
    for operand in operands:
        if not isinstance(operand, int | float):
            raise SecurityError("only numbers can be multiplied")
        if abs(operand) > NUMBER_MAX:
            raise SecurityError("the number is too large")
