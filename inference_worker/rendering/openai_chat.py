"""OpenAI chat completion chunks, with llama.cpp's additions (``timings``). Pure."""

from __future__ import annotations

import codecs
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
from inference_worker.engine import Candidate, Finish, FinishReason, Timings, TokenLogprobs
from replay import frames
from replay.records import SessionRecord
from replay.request import GenerationRequest

_Decoder = codecs.getincrementaldecoder("utf-8")


class ChatRenderer:
    """One session's chunks: the role, the deltas, the finish, the usage, ``[DONE]``."""

    def __init__(
        self, record: SessionRecord, request: GenerationRequest, parser: AnswerParser
    ) -> None:
        self._record = record
        self._options = request.render
        self._sampling = request.sampling
        self._parser = parser
        self._has_role = False
        self._has_calls = False

    def step(
        self,
        text: str,
        *,
        tokens: int,
        timings: Timings | None,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> bytes:
        """The role and a prefill before the first token, and a chunk for each delta.

        Probabilities are told at once, also where the parser holds their text back.
        """
        deltas = [self._delta(delta) for delta in self._parser.feed(text)]
        if logprobs and not deltas:
            deltas = [{}]
        told = timings if self._options.timings_per_token else None
        return self._role() + self._chunks(deltas, timings=told, logprobs=logprobs)

    def finish(self, finish: Finish, *, tokens: int, timings: Timings | None) -> bytes:
        """What was held back, the finish chunk, the usage chunk where asked for, and ``[DONE]``.

        The timings ride on the last JSON chunk, as llama.cpp's do.
        """
        held = self._chunks([self._delta(delta) for delta in self._parser.finish()])
        with_usage = self._options.include_usage
        frame = self._role() + held
        frame += self._chunk(
            {}, finish_reason=self._reason(finish), timings=None if with_usage else timings
        )
        if with_usage:
            frame += frames.data(self._usage(tokens, timings))
        return frame + frames.DONE

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
        begun = self._options.prefill
        return role + self._chunk({"content": begun}) if begun else role

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
    ) -> bytes:
        choice: dict[str, Any] = {"finish_reason": finish_reason, "index": 0, "delta": delta}
        if logprobs:
            is_post = self._sampling.post_sampling_probs
            told = [_token_logprobs(one, is_post=is_post) for one in logprobs]
            choice["logprobs"] = {"content": told}
        return frames.data({"choices": [choice], **self._base(), **_timings(timings)})

    def _usage(self, tokens: int, timings: Timings | None) -> dict[str, Any]:
        prompt = self._record.prompt_token_count
        usage = {
            "completion_tokens": tokens,
            "prompt_tokens": prompt,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": {"cached_tokens": timings.cache_n if timings else 0},
        }
        return {"choices": [], **self._base(), "usage": usage, **_timings(timings)}

    def _base(self) -> dict[str, Any]:
        return {
            "created": self._record.created_ms // 1000,
            "id": self._record.completion_id,
            "model": self._record.model,
            "system_fingerprint": "b1-replay-cluster",
            "object": "chat.completion.chunk",
        }


def _call(call: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [call]}


def _token_logprobs(told: TokenLogprobs, *, is_post: bool) -> dict[str, Any]:
    """llama.cpp's keys, which call probabilities after sampling otherwise."""
    name, top = ("prob", "top_probs") if is_post else ("logprob", "top_logprobs")
    return {
        **_candidate(told.chosen, name),
        top: [_candidate(candidate, name) for candidate in told.top],
    }


def _candidate(candidate: Candidate, name: str) -> dict[str, Any]:
    """A half code point is not in the text, but in the bytes."""
    text = _Decoder("replace").decode(candidate.piece)
    return {
        "id": candidate.token,
        "token": text,
        "bytes": list(candidate.piece),
        name: candidate.likelihood,
    }


def _timings(timings: Timings | None) -> dict[str, Any]:
    """llama.cpp's keys. The rate of generation leaves the first token out, which prefill made."""
    if timings is None:
        return {}
    spent = {
        "cache_n": timings.cache_n,
        "prompt_n": timings.prompt_n,
        "prompt_ms": round(timings.prompt_ms, 3),
        "prompt_per_token_ms": _ratio(timings.prompt_ms, timings.prompt_n),
        "prompt_per_second": _ratio(1000 * timings.prompt_n, timings.prompt_ms),
        "predicted_n": timings.predicted_n,
        "predicted_ms": round(timings.predicted_ms, 3),
        "predicted_per_token_ms": _ratio(timings.predicted_ms, timings.predicted_n),
        "predicted_per_second": _ratio(
            1000 * max(0, timings.predicted_n - 1), timings.predicted_ms
        ),
    }
    return {"timings": spent}


def _ratio(over: float, under: float) -> float:
    return round(over / under, 3) if under > 0 else 0.0
