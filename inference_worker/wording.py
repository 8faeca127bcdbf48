"""The part of an engine that needs neither slot nor thread: between texts and tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from inference_worker.engine import NO_OPTIONS, Message, ModelInfo
from inference_worker.model import Model
from replay.request import ChatOptions


class Wording:
    """A model's vocabulary and templates; see ``Engine``. Of any thread."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def model(self) -> ModelInfo:
        """What is loaded."""
        return self._model.info

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See ``Engine.tokenize``."""
        return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        """See ``Engine.piece``."""
        return self._model.piece(token)

    def spelling(self, token: int) -> bytes:
        """See ``Engine.spelling``."""
        return self._model.spelling(token)

    def prompt_text(self, messages: Seq[Message], options: ChatOptions = NO_OPTIONS) -> str:
        """See ``Engine.prompt_text``."""
        return self._model.prompt_text(messages, options)

    def prompt_tokens(self, messages: Seq[Message], options: ChatOptions = NO_OPTIONS) -> list[int]:
        """See ``Engine.prompt_tokens``."""
        return self._model.prompt_tokens(messages, options)

    def rerank_inputs(self, query: str, documents: Seq[str]) -> list[list[int]]:
        """See ``Engine.rerank_inputs``."""
        return self._model.rerank_inputs(query, documents)
