"""How a request asks for a slot's context to be used: fields that all dialects share. Pure."""

from __future__ import annotations

from api.fields import Fields
from replay.request import ContextOptions

HINTS = {"id_slot": -1, "n_cache_reuse": 0}
"""Which slot to take, and how to reuse its cache: no answer depends on it, and workers choose
themselves. The least value of each."""


def parse_context(fields: Fields) -> ContextOptions:
    """llama.cpp's fields of that name. Raises RequestInvalid."""
    for name, least in HINTS.items():
        fields.bounded(name, least, low=least)
    return ContextOptions(
        cache_prompt=fields.boolean("cache_prompt", default=True),
        n_keep=fields.bounded("n_keep", 0, low=-1),
        n_discard=fields.bounded("n_discard", 0, low=0),
    )
