"""What a request says of the model's thinking, in any dialect. Pure."""

from __future__ import annotations

from typing import Any

from api.fields import Fields
from api.problems import RequestInvalid
from replay.request import ReasoningParams, ShownAs

BUDGETS = ("reasoning_budget_tokens", "thinking_budget_tokens")
"""Aliases, in the order in which they are looked up."""

BUDGET_MESSAGE_CHARACTERS_MAX = 4096
FORMATS = ("auto", "none", "deepseek", "deepseek-legacy")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def parse_reasoning(fields: Fields, *, stream: bool) -> ReasoningParams:
    """llama.cpp's fields. Raises RequestInvalid."""
    message = fields.text("reasoning_budget_message")
    if len(message) > BUDGET_MESSAGE_CHARACTERS_MAX:
        raise RequestInvalid(
            "Field 'reasoning_budget_message': "
            f"longer than {BUDGET_MESSAGE_CHARACTERS_MAX} characters"
        )
    form = _one_of(fields, "reasoning_format", FORMATS) or "auto"
    shown_as: ShownAs = "content" if form == "none" else "reasoning"
    if form == "deepseek-legacy":
        shown_as = "content" if stream else "both"
    return ReasoningParams(
        shown_as=shown_as,
        budget_tokens=fields.bounded(fields.first_of(BUDGETS), -1, low=-1),
        budget_message=message,
        is_controlled=fields.boolean("reasoning_control"),
    )


def effort_variables(fields: Fields) -> dict[str, Any]:
    """What the template is told of the effort that is wanted. Raises RequestInvalid."""
    effort = _one_of(fields, "reasoning_effort", EFFORTS)
    if effort == "none":
        return {"enable_thinking": False}
    return {"reasoning_effort": effort} if effort else {}


def _one_of(fields: Fields, name: str, known: tuple[str, ...]) -> str:
    value = fields.text(name)
    if value and value not in known:
        raise RequestInvalid(f"Field '{name}': must be one of {', '.join(known)}")
    return value
