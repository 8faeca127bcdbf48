"""What dialects share whose requests become a chat's: its fields, texts and parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from api.dialects.completing import MAX_TOKENS
from api.fields import mistyped
from api.problems import RequestInvalid

NOT_PASSED = frozenset(
    {
        *MAX_TOKENS,
        *("messages", "stop", "n", "n_cmpl", "stream_options", "echo"),
        *("logprobs", "top_logprobs", "n_probs", "functions", "function_call"),
        *("add_generation_prompt", "continue_final_message", "verbose"),
    }
)
"""Fields of a chat that mean nothing elsewhere; all others may be given beside the vendor's."""

_FIELD = re.compile(r"(?<=Field ')[^']+")


@contextmanager
def in_own_words(names: Mapping[str, str]) -> Iterator[None]:
    """A block whose mistakes are told by the names that the client knows.

    ``names``: patterns of a chat's fields, and what the dialect calls them; the first that fits
    counts.
    """
    try:
        yield
    except RequestInvalid as error:
        raise RequestInvalid(own_words(str(error), names)) from None


def own_words(message: str, names: Mapping[str, str]) -> str:
    """The message with the dialect's names in it."""

    def own(found: re.Match[str]) -> str:
        for pattern, name in names.items():
            if at := re.match(pattern, found[0]):
                return at.expand(name) + found[0][at.end() :]
        return found[0]

    return _FIELD.sub(own, message)


def passed_on(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a chat may read as they are."""
    return {name: value for name, value in body.items() if name not in NOT_PASSED}


def given(chat: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's fields that ask for something."""
    return {name: value for name, value in chat.items() if value is not None}


def text_at(name: str, part: Mapping[str, Any], key: str) -> str:
    """A field that must be there; ``name`` is the part's in errors."""
    value = part.get(key)
    if not isinstance(value, str):
        raise mistyped(f"{name}.{key}", "a string", value)
    return value


def content_of(texts: list[str]) -> str | list[dict[str, Any]]:
    """One text alone is a string; templates join several ones as they do."""
    if len(texts) < 2:
        return "".join(texts)
    return [{"type": "text", "text": text} for text in texts]
