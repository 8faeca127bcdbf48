"""Which parser an answer has."""

from __future__ import annotations

from inference_worker.answer import AnswerParser, PlainParser
from inference_worker.thoughts import KeptThoughtParser, Tags, ThoughtParser
from inference_worker.tools import parser_of_calls
from replay.request import GenerationRequest


def parser_of(request: GenerationRequest, *, id_seed: str) -> AnswerParser:
    """The parser of the request's format; ids of calls are derived from ``id_seed``."""
    form, shown_as = request.format, request.reasoning.shown_as
    content: AnswerParser = PlainParser()
    if form.tools:
        content = parser_of_calls(form.tools, request.chat.tools, id_seed=id_seed)
    if not form.thought_end or shown_as == "content":
        return content
    thoughts = ThoughtParser(
        Tags(form.thought_begin, form.thought_end),
        content,
        is_open=form.is_thought_open,
        is_begun=form.is_thought_begun,
    )
    return KeptThoughtParser(thoughts) if shown_as == "both" else thoughts
