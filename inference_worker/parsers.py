"""Which parser an answer has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inference_worker.answer import AnswerParser, ContentDelta, Delta, PlainParser
from inference_worker.text import common_beginning
from inference_worker.thoughts import KeptThoughtParser, Tags, ThoughtParser
from inference_worker.tools import parser_of_calls
from replay.request import GenerationRequest


def parser_of(request: GenerationRequest, *, id_seed: str) -> AnswerParser:
    """The parser of the request's format; ids of calls are derived from ``id_seed``."""
    form, shown_as = request.format, request.reasoning.shown_as
    content: AnswerParser = PlainParser()
    if form.tools:
        content = parser_of_calls(form.tools, request.chat.tools, id_seed=id_seed)
    if form.begun:
        given = "" if request.render.prefill else _content_of(form.begun, request)
        return BegunParser(content, form.begun, given=given)
    if not form.thought_end or shown_as == "content":
        return content
    thoughts = ThoughtParser(
        Tags(form.thought_begin, form.thought_end, form.content_begin),
        content,
        is_open=form.is_thought_open,
        is_begun=form.is_thought_begun,
    )
    return KeptThoughtParser(thoughts) if shown_as == "both" else thoughts


def _content_of(begun: str, request: GenerationRequest) -> str:
    """What is content in the client's beginning, if it ends there."""
    parser = parser_of_calls(request.format.tools, request.chat.tools, id_seed="")
    told = [*parser.feed(begun), *parser.finish()]
    return "".join(delta.text for delta in told if isinstance(delta, ContentDelta))


class BegunParser:
    """Parses an answer whose beginning the client gave.

    Calls in it are told whole, since whoever reads them needs all of them; of its content only what
    is not ``given``.
    """

    def __init__(self, parser: AnswerParser, begun: str, *, given: str) -> None:
        self._parser = parser
        self._given = given
        self._begun = parser.feed(begun)

    def feed(self, text: str) -> list[Delta]:
        """See ``AnswerParser.feed``."""
        begun, self._begun = self._begun, []
        return list(self._new([*begun, *self._parser.feed(text)]))

    def finish(self, *, is_cut: bool = False) -> list[Delta]:
        """See ``AnswerParser.finish``."""
        begun, self._begun = self._begun, []
        return list(self._new([*begun, *self._parser.finish(is_cut=is_cut)]))

    def _new(self, deltas: Iterable[Delta]) -> Iterator[Delta]:
        for delta in deltas:
            match delta:
                case ContentDelta(text):
                    known = common_beginning(text, self._given)
                    # What differs is new: of what was given, the rest turned out to be no content.
                    self._given = self._given[len(known) :] if known == text else ""
                    if known != text:
                        yield ContentDelta(text.removeprefix(known))
                case _:
                    self._given = ""
                    yield delta
