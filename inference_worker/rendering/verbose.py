"""llama.cpp's ``__verbose``: what its own route would tell, beside an answer of OpenAI's. Pure."""

from __future__ import annotations

from typing import Any

from inference_worker.answer import AnswerParser
from inference_worker.engine import Finish, Timings
from inference_worker.rendering.llama_completion import NativeRenderer
from inference_worker.rendering.parts import Part
from replay.records import SessionRecord
from replay.request import GenerationRequest


class Verbose:
    """The native route's last event of the first choice, where the client wants it."""

    def __init__(
        self,
        record: SessionRecord,
        request: GenerationRequest,
        parser: AnswerParser,
        part: Part | None,
    ) -> None:
        is_wanted = request.render.verbose and not (part and part.index)
        self._native = NativeRenderer(record, request, parser, part) if is_wanted else None
        self._is_streamed = request.render.stream
        self._texts: list[str] = []

    def take(self, text: str) -> None:
        """The next text, as the model wrote it."""
        if self._native:
            self._texts.append(text)

    def shown(self, finish: Finish, *, tokens: int, timings: Timings | None) -> dict[str, Any]:
        """The field; a stream has told the content already."""
        if not self._native:
            return {}
        text = "".join(self._texts)
        told = self._native.final(finish, tokens=tokens, timings=timings)
        content = "" if self._is_streamed else text
        return {"__verbose": {**told, "content": content, "has_new_line": "\n" in text}}
