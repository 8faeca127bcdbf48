"""Anthropic's Messages as events: one block after the other, each begun and ended. Pure."""

from __future__ import annotations

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
from inference_worker.rendering.parts import Progress
from replay import frames
from replay.records import SessionRecord
from replay.request import GenerationRequest

CALL_PREFIX = "toolu_"


class MessagesRenderer:
    """One session's events: the message's start, its blocks, its end."""

    def __init__(
        self, record: SessionRecord, request: GenerationRequest, parser: AnswerParser
    ) -> None:
        self._record = record
        self._parser = parser
        self._omits_thoughts = request.render.omits_thoughts
        self._has_started = False
        self._has_calls = False
        self._open = ""
        """The type of the block that is open, "" while none is."""
        self._index = -1

    def step(
        self,
        text: str,
        *,
        tokens: int,
        timings: Timings | None,
        logprobs: Sequence[TokenLogprobs] = (),
        ids: Sequence[int] = (),
    ) -> bytes:
        """The message's start before the first token, and an event for each delta."""
        return self._start(timings) + b"".join(map(self._told, self._parser.feed(text)))

    def progress(self, progress: Progress) -> bytes:
        """Anthropic's clients are not told."""
        return b""

    def finish(self, finish: Finish, *, tokens: int, timings: Timings | None) -> bytes:
        """What was held back, the end of the open block, why the message ends, and its end."""
        frame = self._start(timings) + b"".join(
            map(self._told, self._parser.finish(is_cut=finish.is_cut))
        )
        delta = {
            "stop_reason": self._reason(finish),
            "stop_sequence": finish.stopping_word or None,
        }
        ended = {"delta": delta, "usage": {**self._input_usage(timings), "output_tokens": tokens}}
        return frame + self._stop() + _event("message_delta", **ended) + _event("message_stop")

    def _reason(self, finish: Finish) -> str:
        if finish.reason is FinishReason.LENGTH:
            return "model_context_window_exceeded" if finish.context_full else "max_tokens"
        if finish.stopping_word:
            return "stop_sequence"
        return "tool_use" if self._has_calls else "end_turn"

    def _start(self, timings: Timings | None) -> bytes:
        if self._has_started:
            return b""
        self._has_started = True
        message: dict[str, Any] = {
            "id": self._record.completion_id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._record.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**self._input_usage(timings), "output_tokens": 0},
        }
        return _event("message_start", message=message) + _event("ping")

    def _input_usage(self, timings: Timings | None) -> dict[str, int]:
        """The vendor counts what came from the cache apart."""
        cached = timings.cache_n if timings else 0
        return {
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "input_tokens": self._record.prompt_token_count - cached,
        }

    def _told(self, delta: Delta) -> bytes:
        match delta:
            case ContentDelta(text):
                begun = self._within({"type": "text", "text": ""})
                return begun + self._delta({"type": "text_delta", "text": text})
            case ReasoningDelta(text):
                begun = self._within({"type": "thinking", "thinking": "", "signature": ""})
                if self._omits_thoughts:
                    return begun
                return begun + self._delta({"type": "thinking_delta", "thinking": text})
            case ToolCallBegun(_, id, name):
                self._has_calls = True
                call = {"type": "tool_use", "id": CALL_PREFIX + id, "name": name, "input": {}}
                return self._stop() + self._within(call)
            case ToolArguments(_, text):
                return self._delta({"type": "input_json_delta", "partial_json": text})

    def _within(self, block: dict[str, Any]) -> bytes:
        """Begins a block, unless one of its type is open."""
        if self._open == block["type"]:
            return b""
        ended = self._stop()
        self._open = block["type"]
        self._index += 1
        return ended + _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, str]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _stop(self) -> bytes:
        """Ends the open block; nobody signs thoughts here, but clients await a signature."""
        if not self._open:
            return b""
        signed = b""
        if self._open == "thinking":
            signed = self._delta({"type": "signature_delta", "signature": ""})
        self._open = ""
        return signed + _event("content_block_stop", index=self._index)


def _event(name: str, **more: Any) -> bytes:
    return frames.event(name, {"type": name, **more})
