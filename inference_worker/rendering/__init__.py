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
from inference_worker.rendering.parts import Part, Progress, Together
from replay.records import SessionRecord
from replay.request import GenerationRequest

__all__ = ["RENDERERS", "Renderer", "renderers_of"]


class Renderer(Protocol):
    """Renders one choice of a session."""

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

    def progress(self, progress: Progress) -> bytes:
        """How far the prompt is, where the client wants that; it comes before any token."""
        ...

    def finish(self, finish: Finish, *, tokens: int, timings: Timings | None) -> bytes:
        """The last frames of a choice that is complete; ``tokens`` were sampled for it in all."""
        ...


def renderers_of(record: SessionRecord, request: GenerationRequest) -> list[Renderer]:
    """A renderer for each choice of the session, as its dialect has it.

    Raises KeyError for a dialect that is unknown, or that has one choice only.
    """
    together = Together(request.choices)
    return [_renderer(record, request, Part(index, together)) for index in range(request.choices)]


def _renderer(record: SessionRecord, request: GenerationRequest, part: Part) -> Renderer:
    seed = f"{record.id_seed}-{part.index}" if part.index else record.id_seed
    parser = parser_of(request, id_seed=seed)
    if request.choices > 1:
        return PLURAL[record.dialect](record, request, parser, part)
    return RENDERERS[record.dialect](record, request, parser)


Plural = Callable[[SessionRecord, GenerationRequest, AnswerParser, Part], Renderer]
Singular = Callable[[SessionRecord, GenerationRequest, AnswerParser], Renderer]

PLURAL: Mapping[str, Plural] = {
    "openai.chat": ChatRenderer,
    "openai.completions": CompletionRenderer,
    "llama.completion": NativeRenderer,
}
"""The dialects in which a session may have several choices."""

RENDERERS: Mapping[str, Singular] = {
    "openai.chat": ChatRenderer,
    "openai.completions": CompletionRenderer,
    "llama.completion": NativeRenderer,
    "openai.responses": ResponsesRenderer,
    "anthropic.messages": MessagesRenderer,
}
