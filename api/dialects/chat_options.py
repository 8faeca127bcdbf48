"""What a chat gives its template beside the messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.fields import Fields, mistyped
from api.problems import RequestInvalid
from replay.request import ChatOptions

TEMPLATE_OWN = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "range"}
)
"""What templates are given anyway, and no client may give otherwise."""


def parse_options(fields: Fields) -> ChatOptions:
    """The options. Raises RequestInvalid."""
    return ChatOptions(
        template_kwargs=_template_kwargs(fields.get("chat_template_kwargs")),
        add_generation_prompt=fields.boolean("add_generation_prompt", True),
    )


def _template_kwargs(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise mistyped("chat_template_kwargs", "an object", value)
    for name in sorted(TEMPLATE_OWN & value.keys()):
        raise RequestInvalid(f"Field 'chat_template_kwargs.{name}': it is the template's own")
    Fields(value, "chat_template_kwargs.").boolean("enable_thinking")
    return value
