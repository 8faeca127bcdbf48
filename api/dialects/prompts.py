"""What completions without a template go on from: ``prompt`` in all of its forms. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.dialects.completing import CHOICES_MAX
from api.fields import INT_MAX, Fields, mistyped, out_of_range
from api.problems import RequestInvalid
from replay.request import Prompt

PROMPT_CHARACTERS_MAX = 16 << 20
"""Of all prompts of a request, a token counting as one: while a worker reads a prompt, it answers
nobody else's question. As long as a template's may be."""

EXPECTED = "a string, an array of tokens and strings, or an array of prompts"


def parse_prompts(fields: Fields) -> tuple[Prompt, ...]:
    """The prompts, one or several. Raises RequestInvalid."""
    value = fields.get("prompt")
    if value is None:
        raise RequestInvalid("Field 'prompt': it is required")
    if value == []:
        raise RequestInvalid("Field 'prompt': it must not be empty")
    prompts = _prompts(value)
    check_length("prompt", prompts)
    return prompts


def check_length(name: str, prompts: Iterable[Prompt]) -> None:
    """Raises RequestInvalid where they are longer together than any prompt may be."""
    if sum(map(_length, prompts)) > PROMPT_CHARACTERS_MAX:
        raise RequestInvalid(f"Field '{name}': longer than {PROMPT_CHARACTERS_MAX} characters")


def _length(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(piece) if isinstance(piece, str) else 1 for piece in prompt)


def _prompts(value: Any) -> tuple[Prompt, ...]:
    if not isinstance(value, list) or _is_one(value):
        return (_prompt("prompt", value),)
    if len(value) > CHOICES_MAX:
        raise RequestInvalid(f"Field 'prompt': more than {CHOICES_MAX} prompts")
    return tuple(_prompt(f"prompt[{index}]", one) for index, one in enumerate(value))


def _is_one(elements: list[Any]) -> bool:
    """Tokens alone or among strings are one prompt, strings alone are several."""
    is_flat = all(isinstance(element, int | str) for element in elements)
    return is_flat and any(isinstance(element, int) for element in elements)


def _prompt(name: str, value: Any) -> Prompt:
    if isinstance(value, dict):
        return _with_media(name, Fields(value, f"{name}."))
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise mistyped(name, EXPECTED, value)
    return tuple(_piece(f"{name}[{index}]", piece) for index, piece in enumerate(value))


def _piece(name: str, piece: Any) -> int | str:
    if isinstance(piece, str):
        return piece
    if type(piece) is not int:
        raise mistyped(name, "a token or a string", piece)
    if not 0 <= piece <= INT_MAX:
        raise out_of_range(name, 0, INT_MAX, piece)
    return piece


def _with_media(name: str, fields: Fields) -> str:
    if fields.get("multimodal_data"):
        raise RequestInvalid(f"Field '{name}.multimodal_data': the model takes text only")
    text = fields.get("prompt_string")
    if not isinstance(text, str):
        raise mistyped(f"{name}.prompt_string", "a string", text)
    return text
