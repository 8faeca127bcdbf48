"""OpenAI chat completion chunks, with llama.cpp's additions (``timings``). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from inference_worker.rendering.parts import (
    Part,
    Progress,
    head_of,
    probabilities_of,
    timings_of,
    usage_of,
)
from inference_worker.rendering.verbose import Verbose
from replay import frames
from replay.records import SessionRecord
from replay.request import GenerationRequest


class ChatRenderer:
    """One choice's chunks: the role, the deltas, the finish, the usage, ``[DONE]``."""

    def __init__(
        self,
        record: SessionRecord,
        request: GenerationRequest,
        parser: AnswerParser,
        part: Part | None = None,
    ) -> None:
        self._record = record
        self._options = request.render
        self._sampling = request.sampling
        self._begun = request.format.begun
        """Of the prefill, what the parser reads with the answer."""
        self._parser = parser
        self._part = part or Part()
        self._verbose = Verbose(record, request, parser, part)
        self._has_role = False
        self._has_calls = False

    def step(
        self,
        text: str,
        *,
        tokens: int,
        timings: Timings | None,
        logprobs: Sequence[TokenLogprobs] = (),
        ids: Sequence[int] = (),
    ) -> bytes:
        """The role and a prefill before the first token, and a chunk for each delta.

        Probabilities are told at once, also where the parser holds their text back.
        """
        self._verbose.take(text)
        deltas = [self._delta(delta) for delta in self._parser.feed(text)]
        if logprobs and not deltas:
            deltas = [{}]
        told = timings if self._options.timings_per_token else None
        return self._role() + self._chunks(deltas, timings=told, logprobs=logprobs)

    def progress(self, progress: Progress) -> bytes:
        """The role, which comes again before the first token, and how far the prompt is."""
        return self._chunk({"role": "assistant", "content": None}, progress=progress)

    def finish(self, finish: Finish, *, tokens: int, timings: Timings | None) -> bytes:
        """What was held back and the finish chunk; after the last choice's the usage chunk, where
        asked for, and ``[DONE]``.

        The timings ride on the last JSON chunk, as llama.cpp's do.
        """
        held = self._chunks(
            [self._delta(delta) for delta in self._parser.finish(is_cut=finish.is_cut)]
        )
        is_last = self._part.together.ended(tokens)
        with_usage = is_last and self._options.include_usage
        frame = self._role() + held
        frame += self._chunk(
            {},
            finish_reason=self._reason(finish),
            timings=None if with_usage else timings,
            verbose=self._verbose.shown(finish, tokens=tokens, timings=timings),
        )
        if with_usage:
            frame += frames.data(self._usage(timings))
        return frame + (frames.DONE if is_last else b"")

    def _reason(self, finish: Finish) -> str:
        if finish.reason is FinishReason.LENGTH:
            return "length"
        return "tool_calls" if self._has_calls else "stop"

    def _delta(self, delta: Delta) -> dict[str, Any]:
        match delta:
            case ContentDelta(text):
                return {"content": text}
            case ReasoningDelta(text):
                return {"reasoning_content": text}
            case ToolCallBegun(index, id, name):
                self._has_calls = True
                begun = {"name": name, "arguments": ""}
                return _call({"index": index, "id": id, "type": "function", "function": begun})
            case ToolArguments(index, text):
                return _call({"index": index, "function": {"arguments": text}})

    def _role(self) -> bytes:
        if self._has_role:
            return b""
        self._has_role = True
        role = self._chunk({"role": "assistant", "content": None})
        begun = {
            "reasoning_content": self._options.prefill_reasoning,
            "content": self._options.prefill.removesuffix(self._begun),
        }
        return role + self._chunks([{part: text} for part, text in begun.items() if text])

    def _chunks(
        self,
        deltas: Sequence[dict[str, Any]],
        *,
        timings: Timings | None = None,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> bytes:
        """A chunk for each delta; the last one tells what is told of them all."""
        if not deltas:
            return b""
        *before, last = deltas
        told = self._chunk(last, timings=timings, logprobs=logprobs)
        return b"".join(map(self._chunk, before)) + told

    def _chunk(
        self,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        timings: Timings | None = None,
        logprobs: Sequence[TokenLogprobs] = (),
        progress: Progress | None = None,
        verbose: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {
            "finish_reason": finish_reason,
            "index": self._part.index,
            "delta": delta,
        }
        if logprobs:
            choice["logprobs"] = {"content": probabilities_of(logprobs, self._sampling)}
        more = {**(verbose or {}), **timings_of(timings), **(progress.shown() if progress else {})}
        return frames.data({"choices": [choice], **self._base(), **more})

    def _usage(self, timings: Timings | None) -> dict[str, Any]:
        tokens = self._part.together.tokens
        usage = usage_of(self._record.prompt_token_count, tokens, timings)
        return {"choices": [], **self._base(), "usage": usage, **timings_of(timings)}

    def _base(self) -> dict[str, Any]:
        return {**head_of(self._record), "object": "chat.completion.chunk"}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [call]}
