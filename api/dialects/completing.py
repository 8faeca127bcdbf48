"""What the bodies of all completions share, chats among them. Pure.

What this engine cannot do yet is refused by name, never ignored: an answer that silently lacks
what was asked for is worse than none. Fields that nobody knows are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from api.fields import Fields, mistyped
from api.problems import RequestInvalid
from replay.request import PING_INTERVAL_S

STOPS_MAX = 256
STOP_CHARACTERS_MAX = 4096
MAX_TOKENS = ("n_predict", "max_completion_tokens", "max_tokens")
"""Aliases, in the order in which they are looked up."""

CHOICES_MAX = 32
"""Answers of one session, each a sequence of its own; those without a slot wait for one."""


def _is(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == n and type(value) is type(n) for n in neutral)


NOT_BUILT: Mapping[str, Callable[[Any], bool]] = {
    "functions": _is([]),
    "function_call": _is("none"),
    "modalities": _is(["text"]),
    "audio": _is(),
    "moderation": _is(),
    "prediction": _is(),
    "web_search_options": _is(),
}
"""Fields that ask for what is not built, and the values with which they ask for nothing."""


def max_tokens(fields: Fields) -> int:
    """How many tokens the answer may have; -1 is until the context is full."""
    return fields.bounded(fields.first_of(MAX_TOKENS), -1, low=-1)


def choices(fields: Fields, *, prompts: int = 1) -> int:
    """How many answers to each prompt there are to be. Raises RequestInvalid for too many."""
    name = fields.first_of(("n_cmpl", "n"))
    n = fields.bounded(name, 1, low=1, high=CHOICES_MAX)
    if n * prompts > CHOICES_MAX:
        raise RequestInvalid(f"Field '{name}': more than {CHOICES_MAX} answers in all")
    return n


def max_predict_ms(fields: Fields) -> int:
    """How long the answer may go on after its first token and line; -1 is without a limit."""
    return fields.bounded("t_max_predict_ms", -1, low=-1) or -1


def indent(fields: Fields) -> int:
    """How many blanks and tabs each line but the first has, or the answer ends before it."""
    return fields.bounded("n_indent", 0, low=0)


def ping_interval(fields: Fields) -> int:
    """After how many seconds of silence a keep-alive comes; -1 is never."""
    # 0 would be a ping without a pause.
    return fields.bounded("sse_ping_interval", PING_INTERVAL_S, low=-1) or 1


def refuse_not_built(body: Mapping[str, Any]) -> None:
    """Raises RequestInvalid for the first field that asks for what is not built."""
    for name, asks_nothing in NOT_BUILT.items():
        value = body.get(name)
        if value is not None and not asks_nothing(value):
            raise RequestInvalid(f"Field '{name}': not supported yet")


def stops(fields: Fields) -> tuple[str, ...]:
    """The stop strings. Raises RequestInvalid."""
    value = fields.get("stop")
    if value is None:
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        raise mistyped("stop", "a string or an array of strings", value)
    if len(given) > STOPS_MAX:
        raise RequestInvalid(f"Field 'stop': more than {STOPS_MAX} strings")
    for stop in given:
        if not isinstance(stop, str):
            raise mistyped("stop", "a string or an array of strings", stop)
        if len(stop) > STOP_CHARACTERS_MAX:
            raise RequestInvalid(f"Field 'stop': longer than {STOP_CHARACTERS_MAX} characters")
    return tuple(stop for stop in given if stop)
