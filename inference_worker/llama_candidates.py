"""Tokens among which llama.cpp's samplers choose."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np

TOKEN_DATA = np.dtype(llama_cpp.llama_token_data)


class Candidates:
    """So many tokens with their logits, laid out for llama.cpp's samplers, which work in place."""

    def __init__(self, count: int) -> None:
        self.tokens = np.zeros(count, dtype=TOKEN_DATA)
        self._pointer = self.tokens.ctypes.data_as(llama_cpp.llama_token_data_p)
        self._left: Any = None

    def filled(self, ids: Any, logits: Any) -> Candidates:
        """Itself, with these."""
        self.tokens["id"] = ids
        self.tokens["logit"] = logits
        return self

    def chosen_by(self, chain: Any) -> int:
        """The token that the last sampler of a chain chooses."""
        self._left = llama_cpp.llama_token_data_array(self._pointer, len(self.tokens), -1, False)
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(self._left))
        return int(self._left.data[self._left.selected].id)

    @property
    def left(self) -> Any:
        """What the chain left, until it is applied again: a sampler may have laid it elsewhere."""
        return np.ctypeslib.as_array(self._left.data, shape=(self._left.size,))
