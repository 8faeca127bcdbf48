"""How a request asks for a slot's context to be used: fields that all dialects share. Pure."""

from __future__ import annotations

from api.fields import Fields
from replay.request import ContextOptions


def parse_context(fields: Fields) -> ContextOptions:
    """llama.cpp's fields of that name. Raises RequestInvalid."""
    return ContextOptions(
        cache_prompt=fields.boolean("cache_prompt", default=True),
        n_keep=fields.bounded("n_keep", 0, low=-1),
        n_discard=fields.bounded("n_discard", 0, low=0),
    )
