"""Tokens in, SSE bytes out: one module a dialect, pure and deterministic.

A renderer is a function of the session record and of the steps it is given, so that a worker that
takes a session over can bring a new one to the same point. Clocks come in as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from inference_worker.answer import AnswerParser
from inference_worker.engine import Finish, Timings, TokenLogprobs
from inference_worker.parsers import parser_of
from inference_worker.rendering.anthropic_messages import MessagesRenderer
from inference_worker.rendering.llama_completion import NativeRenderer
from inference_worker.rendering.openai_chat import ChatRenderer
from inference_worker.rendering.openai_completions import CompletionRenderer
from inference_worker.rendering.openai_responses import ResponsesRenderer
from replay.records import SessionRecord
from replay.request import GenerationRequest

__all__ = ["RENDERERS", "Renderer", "renderer_of"]


class Renderer(Protocol):
    """Renders one session."""

    def step(
        self,
        text: str,
        *,
        tokens: int,
        timings: Timings | None,
        logprobs: Sequence[TokenLogprobs] = (),
        ids: Sequence[int] = (),
    ) -> bytes:
        """The frames of newly sampled tokens, ``text`` being what they show; b"" for nothing.

        ``tokens`` is how many there are in all, ``ids`` are the new ones.
        """
        ...

    def finish(self, finish: Finish, *, tokens: int, timings: Timings | None) -> bytes:
        """The last frames of an answer that is complete; ``tokens`` were sampled in all."""
        ...


def renderer_of(record: SessionRecord, request: GenerationRequest) -> Renderer:
    """The renderer of the session's dialect. Raises KeyError for one that is unknown."""
    return RENDERERS[record.dialect](record, request, parser_of(request, id_seed=record.id_seed))


RENDERERS: Mapping[str, Callable[[SessionRecord, GenerationRequest, AnswerParser], Renderer]] = {
    "openai.chat": ChatRenderer,
    "anthropic.messages": MessagesRenderer,
    "openai.completions": CompletionRenderer,
    "llama.completion": NativeRenderer,
    "openai.responses": ResponsesRenderer,
}
