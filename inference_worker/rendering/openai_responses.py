"""OpenAI's Responses as numbered events: one item after the other, each added and done. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from inference_worker.answer import (
    AnswerParser,
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolArguments,
    ToolCallBegun,
)
from inference_worker.engine import Finish, FinishReason, Timings, TokenLogprobs
from inference_worker.rendering.parts import Progress, probabilities_of, timings_of
from replay import frames
from replay.records import SessionRecord
from replay.request import GenerationRequest
from replay.responses import response_of

ID_CHARACTERS = 32


class ResponsesRenderer:
    """One session's events: the response's beginning, its items, its end."""

    def __init__(
        self, record: SessionRecord, request: GenerationRequest, parser: AnswerParser
    ) -> None:
        self._record = record
        self._request = request
        self._parser = parser
        self._number = 0
        """Of the next event."""
        self._output: list[dict[str, Any]] = []
        """The items that are done."""
        self._open: _Item | None = None
        self._logprobs: list[dict[str, Any]] = []
        """Of tokens whose text no event has shown yet."""
        self._reasoning_tokens = 0
        self._timings: dict[str, Any] = {}
        """What the next delta tells beside its text."""

    def step(
        self,
        text: str,
        *,
        tokens: int,
        timings: Timings | None,
        logprobs: Sequence[TokenLogprobs] = (),
        ids: Sequence[int] = (),
    ) -> bytes:
        """The response's beginning before the first token, and an event for each delta."""
        self._logprobs += probabilities_of(logprobs, self._request.sampling)
        deltas = self._parser.feed(text)
        if any(isinstance(delta, ReasoningDelta) for delta in deltas):
            self._reasoning_tokens = tokens
        frame = self._begin() + b"".join(map(self._told, deltas[:-1]))
        if not deltas:
            return frame
        if self._request.render.timings_per_token:
            self._timings = timings_of(timings)
        return frame + self._told(deltas[-1])

    def progress(self, progress: Progress) -> bytes:
        """The response's beginning before the first of them; then it is in progress again.

        It has the number of the event before: a worker that takes the session over cannot know how
        many there were, and goes on with the numbers all the same.
        """
        begun = self._begin()
        self._number -= 1
        response = self._response("in_progress")
        return begun + self._event("response.in_progress", response=response, **progress.shown())

    def finish(self, finish: Finish, *, tokens: int, timings: Timings | None) -> bytes:
        """What was held back, the end of the open item, and the whole response."""
        frame = self._begin() + b"".join(map(self._told, self._parser.finish(is_cut=finish.is_cut)))
        status = "completed"
        told: dict[str, Any] = {"completed_at": finish.ended_ms // 1000}
        if finish.reason is FinishReason.LENGTH:
            status, told = "incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}
        frame += self._done(status)
        response = self._response(status, usage=self._usage(tokens, timings), **told)
        return frame + self._event(f"response.{status}", response=response, **timings_of(timings))

    def _begin(self) -> bytes:
        if self._number:
            return b""
        response = self._response("in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        return response_of(self._record, self._request, status, output=self._output, **more)

    def _usage(self, tokens: int, timings: Timings | None) -> dict[str, Any]:
        prompt = self._record.prompt_token_count
        cached = timings.cache_n if timings else 0
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": prompt + tokens,
        }

    def _told(self, delta: Delta) -> bytes:
        match delta:
            case ContentDelta(text):
                begun = self._within("message", {"role": "assistant", "content": []})
                return begun + self._text(text)
            case ReasoningDelta(text):
                more = {"summary": [], "content": [], "encrypted_content": ""}
                return self._within("reasoning", more) + self._text(text)
            case ToolCallBegun(_, id, name):
                call = {"call_id": f"call_{id}", "name": name, "arguments": ""}
                return self._done("completed") + self._within("function_call", call)
            case ToolArguments(_, text):
                return self._text(text)

    def _within(self, kind: str, more: dict[str, Any]) -> bytes:
        """Adds an item, unless one of its type is open."""
        if self._open is not None and self._open.kind == kind:
            return b""
        ended = self._done("completed")
        item = self._open = _Item(kind, self._item_id(kind), more)
        added = self._event(
            "response.output_item.added",
            output_index=len(self._output),
            item=item.shown("in_progress"),
        )
        return ended + added + self._part("response.content_part.added", item)

    def _item_id(self, kind: str) -> str:
        """The same for whoever renders the session."""
        told = f"{self._record.id_seed}/{len(self._output)}"
        return PREFIXES[kind] + hashlib.sha256(told.encode()).hexdigest()[:ID_CHARACTERS]

    def _text(self, text: str) -> bytes:
        item = self._open
        assert item is not None
        item.texts.append(text)
        told: dict[str, Any] = {"delta": text, **self._timings}
        self._timings = {}
        if item.kind == "message":
            item.logprobs += self._logprobs
            told["logprobs"], self._logprobs = self._logprobs, []
        return self._of_text("delta", item, **told)

    def _done(self, status: str) -> bytes:
        """Ends the open item."""
        if (item := self._open) is None:
            return b""
        self._open = None
        told: dict[str, Any] = {ITEM_TEXTS[item.kind]: item.text}
        if item.kind == "message":
            told["logprobs"] = item.logprobs
        frame = self._of_text("done", item, **told)
        frame += self._part("response.content_part.done", item)
        shown = item.shown(status)
        frame += self._event(
            "response.output_item.done", output_index=len(self._output), item=shown
        )
        self._output = [*self._output, shown]
        return frame

    def _of_text(self, what: str, item: _Item, **more: Any) -> bytes:
        return self._event(f"{TEXT_EVENTS[item.kind]}.{what}", **self._place(item), **more)

    def _part(self, name: str, item: _Item) -> bytes:
        if item.kind == "function_call":
            return b""
        return self._event(name, **self._place(item), part=item.part())

    def _place(self, item: _Item) -> dict[str, Any]:
        place = {"item_id": item.id, "output_index": len(self._output)}
        return place if item.kind == "function_call" else {**place, "content_index": 0}

    def _event(self, name: str, **more: Any) -> bytes:
        numbered = {"type": name, **more, "sequence_number": self._number}
        self._number += 1
        return frames.event(name, numbered)


PREFIXES = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}
TEXT_EVENTS = {
    "message": "response.output_text",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}
ITEM_TEXTS = {"message": "text", "reasoning": "text", "function_call": "arguments"}
"""What the text is called in the event that tells it whole."""


class _Item:
    """One item of the output while its text grows."""

    def __init__(self, kind: str, id: str, more: dict[str, Any]) -> None:
        self.kind = kind
        self.id = id
        self.texts: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self._more = more

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.texts)

    def part(self) -> dict[str, Any]:
        """Its one part."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {
            "type": "output_text",
            "annotations": [],
            "logprobs": self.logprobs,
            "text": self.text,
        }

    def shown(self, status: str) -> dict[str, Any]:
        """The item; one that has just been added has nothing yet."""
        head = {"type": self.kind, "id": self.id, "status": status, **self._more}
        if self.kind == "function_call":
            return {**head, "arguments": self.text}
        return head if status == "in_progress" else {**head, "content": [self.part()]}
