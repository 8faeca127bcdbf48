"""Jinja's sandbox for templates that come with a model file: limits on output, iterations, time.

It must not know what a chat is. How large a template's values may become, ``template_growth`` says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from inference_worker import template_growth

RENDER_CHARACTERS_MAX = template_growth.LENGTH_MAX
RENDER_TIME_MAX_S = 5.0
"""Of computing: no template is refused because its worker was held up."""
RENDER_ITERATIONS_MAX = 1_000_000
"""Of all the template's own ranges in one rendering."""

_DEADLINE = "the deadline"
"""What no template can name: when its rendering must be over."""


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
        bounded = {
            **variables,
            "range": _range_with_budget(RENDER_ITERATIONS_MAX),
            _DEADLINE: time.thread_time() + RENDER_TIME_MAX_S,
        }
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
            MemoryError,
        ) as error:
            # The sandbox lets Python's own errors through: a template that adds a list to a string.
            raise TemplateBroken(str(error) or repr(error)) from error


def _limited(pieces: Iterable[str]) -> Iterator[str]:
    characters = 0
    for piece in pieces:
        characters += len(piece)
        if characters > RENDER_CHARACTERS_MAX:
            raise TemplateBroken(f"the prompt exceeds {RENDER_CHARACTERS_MAX} characters")
        yield piece


def _check_time(deadline: float) -> None:
    if time.thread_time() > deadline:
        raise SecurityError(f"rendering the prompt took over {RENDER_TIME_MAX_S} s")


@pass_context
def _timed(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    """What a loop goes through: a template can loop for ever and show nothing."""
    deadline = context[_DEADLINE]
    for value in values:
        _check_time(deadline)
        yield value


def _concatenated(values: Iterable[Any]) -> str:
    return template_growth.joined(map(str, values))


class _Bounds(NodeTransformer):
    """Puts our filters where jinja has no hook: around what loops go through, and into ``~``."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_timed")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        listed = nodes.List(node.nodes, lineno=node.lineno, environment=node.environment)
        return _filtered(listed, "_concatenated")


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(
        node, name, [], [], None, None, lineno=node.lineno, environment=node.environment
    )


class _BoundGenerator(CodeGenerator):
    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        super().visit_Template(_Bounds().visit(node), frame)


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
    """Jinja's sandbox, which also bounds how long a rendering takes, and how large it becomes."""

    code_generator_class = _BoundGenerator
    concat = staticmethod(template_growth.joined)
    intercepted_binops = frozenset(template_growth.OPERATIONS)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return template_growth.OPERATIONS[operator](left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # Macros call one another, and show nothing before the first has ended.
        _check_time(__context[_DEADLINE])
        checked = template_growth.checked_call(__obj, args, kwargs.values())
        return super().call(__context, __obj, *checked, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            template_growth.check_format(value.__self__)
        return wrapped


class _Generation(Extension):
    """``{% generation %}`` tells trainers what the assistant says; to us it says nothing."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # jinja2 has a mutable set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What stands within, as if it stood alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    del environment.globals["lipsum"]  # as much of it as a template asks for
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    environment.filters |= {
        **template_growth.FILTERS_BOUND,
        "tojson": _to_json,
        "_timed": _timed,
        "_concatenated": _concatenated,
    }
    return environment


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **_options: Any) -> str:
    """Unlike jinja's own, it escapes nothing for HTML: the model reads plain JSON."""
    template_growth.check_padding([indent])
    return json.dumps(value, ensure_ascii=False, indent=indent)
