"""Chat templates: from messages to the text that the model's vocabulary then tokenizes.

A template comes with a model file, messages come from anybody: it is rendered in jinja's immutable
sandbox, with limits on output, iterations and time. Which messages an API accepts is the API's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference_worker.engine import EngineFailed, Message, PromptInvalid

RENDER_CHARACTERS_MAX = 16 * 1024 * 1024
RENDER_TIME_MAX_S = 5.0
RENDER_ITERATIONS_MAX = 1_000_000
"""Of all the template's own ranges in one rendering; loops over messages are bounded by them."""

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, for a model whose file has no template; llama.cpp takes the same."""


class ChatTemplate:
    """A compiled chat template; rendering may happen on any thread."""

    def __init__(self, source: str, *, bos_text: str = "", eos_text: str = "") -> None:
        """Raises EngineFailed when the template does not compile."""
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise EngineFailed(f"the chat template does not compile: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text. Raises PromptInvalid where the template or a limit refuses.

        A last message of the assistant's is the beginning of the answer.
        """
        try:
            plain = [_plain(message) for message in messages]
            begun = plain.pop()["content"] if _is_assistants(plain[-1:]) else ""
            variables = {
                **self._tokens,
                "messages": plain,
                "add_generation_prompt": add_generation_prompt,
                "tools": None,
                "range": _range_with_budget(RENDER_ITERATIONS_MAX),
                **(extra or {}),
            }
            return "".join(_limited(self._template.generate(variables))) + begun
        except (
            TemplateError,
            AttributeError,
            TypeError,
            ValueError,
            KeyError,
            ArithmeticError,
        ) as error:
            # The sandbox lets Python's own errors through: a template that adds a list to a string.
            raise PromptInvalid(f"the chat template refuses these messages: {error}") from error


def _is_assistants(last: Sequence[Message]) -> bool:
    return any(message.get("role") == "assistant" for message in last)


def _plain(message: Message) -> Message:
    """Content as templates expect it: one string, its text parts joined by line breaks."""
    content = message.get("content")
    if content is None:
        return {**message, "content": ""}
    if isinstance(content, str):
        return dict(message)
    return {**message, "content": "\n".join(_part_text(part) for part in content)}


def _part_text(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise PromptInvalid("unsupported content[].type")


def _limited(pieces: Iterable[str]) -> Iterator[str]:
    deadline = time.monotonic() + RENDER_TIME_MAX_S
    characters = 0
    for piece in pieces:
        characters += len(piece)
        if characters > RENDER_CHARACTERS_MAX:
            raise PromptInvalid(f"the prompt exceeds {RENDER_CHARACTERS_MAX} characters")
        if time.monotonic() > deadline:
            raise PromptInvalid(f"rendering the prompt took over {RENDER_TIME_MAX_S} s")
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
