"""Jinja's sandbox for templates that come with a model file: limits on output, iterations, time.

It must not know what a chat is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

RENDER_CHARACTERS_MAX = 16 * 1024 * 1024
RENDER_TIME_MAX_S = 5.0
RENDER_ITERATIONS_MAX = 1_000_000
"""Of all the template's own ranges in one rendering; loops over messages are bounded by them."""


class TemplateBroken(Exception):
    """The template does not compile, or rendering it failed, was refused or met a limit."""


class SandboxedTemplate:
    """A compiled template; rendering may happen on any thread."""

    def __init__(self, source: str) -> None:
        """Raises TemplateBroken."""
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise TemplateBroken(str(error)) from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises TemplateBroken."""
        bounded = {**variables, "range": _range_with_budget(RENDER_ITERATIONS_MAX)}
        try:
            return "".join(_limited(self._template.generate(bounded)))
        except (
            TemplateError,
            AttributeError,
            TypeError,
            ValueError,
            LookupError,
            ArithmeticError,
            RecursionError,
        ) as error:
            # The sandbox lets Python's own errors through: a template that adds a list to a string.
            raise TemplateBroken(str(error)) from error


def _limited(pieces: Iterable[str]) -> Iterator[str]:
    deadline = time.monotonic() + RENDER_TIME_MAX_S
    characters = 0
    for piece in pieces:
        characters += len(piece)
        if characters > RENDER_CHARACTERS_MAX:
            raise TemplateBroken(f"the prompt exceeds {RENDER_CHARACTERS_MAX} characters")
        if time.monotonic() > deadline:
            raise TemplateBroken(f"rendering the prompt took over {RENDER_TIME_MAX_S} s")
        yield piece


def _range_with_budget(iterations: int) -> Any:
    """A ``range`` whose calls together stay within a number of iterations.

    The sandbox bounds each range, but not nested ones, and a loop that prints nothing gives no
    other chance to end it.
    """
    left = iterations

    def bounded_range(*arguments: int) -> range:
        nonlocal left
        numbers = range(*arguments)
        left -= len(numbers)
        if left < 0:
            raise SecurityError(f"over {iterations} iterations")
        return numbers

    return bounded_range


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses to multiply a text into gigabytes."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not all(isinstance(operand, int | float) for operand in (left, right)):
            raise SecurityError(f"{operator} is for numbers only")
        if operator == "**" and (abs(left) > 2**32 or abs(right) > 64):
            raise SecurityError("the power is too large")
        return super().call_binop(context, operator, left, right)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    environment.filters["tojson"] = _to_json
    return environment


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **_options: Any) -> str:
    """Unlike jinja's own, it escapes nothing for HTML: the model reads plain JSON."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
