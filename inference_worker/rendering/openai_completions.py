"""OpenAI text completion chunks, with llama.cpp's additions (``timings``). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference_worker.answer import AnswerParser
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


class CompletionRenderer:
    """One choice's chunks: the text, the finish with its usage, ``[DONE]``."""

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
        self._part = part or Part()
        self._verbose = Verbose(record, request, parser, part)
        self._shown_characters = 0

    def step(
        self,
        text: str,
        *,
        tokens: int,
        timings: Timings | None,
        logprobs: Sequence[TokenLogprobs] = (),
        ids: Sequence[int] = (),
    ) -> bytes:
        """A chunk where there is text, or the probabilities of a token that shows none."""
        self._verbose.take(text)
        if not text and not logprobs:
            return b""
        told = self._probabilities(logprobs) if logprobs else None
        self._shown_characters += len(text)
        spent = timings if self._options.timings_per_token else None
        return frames.data({**self._chunk(text, told), **timings_of(spent)})

    def progress(self, progress: Progress) -> bytes:
        """A chunk without text."""
        return frames.data({**self._chunk("", None), **progress.shown()})

    def finish(self, finish: Finish, *, tokens: int, timings: Timings | None) -> bytes:
        """The finish with timings, and after the last choice's usage and ``[DONE]``.

        The usage rides on the last finish, and comes alone too where that is asked for.
        """
        reason = "length" if finish.reason is FinishReason.LENGTH else "stop"
        chunk = self._chunk("", None, finish_reason=reason)
        chunk |= self._verbose.shown(finish, tokens=tokens, timings=timings)
        if not self._part.together.ended(tokens):
            return frames.data({**chunk, **timings_of(timings)})
        total, prompt = self._part.together.tokens, self._record.prompt_token_count
        usage = {"usage": usage_of(prompt, total, timings)}
        frame = frames.data({**chunk, **usage, **timings_of(timings)})
        if self._options.include_usage:
            frame += frames.data({"choices": [], **self._base(), **usage})
        return frame + frames.DONE

    def _chunk(
        self, text: str, logprobs: dict[str, Any] | None, *, finish_reason: str | None = None
    ) -> dict[str, Any]:
        choice = {
            "text": text,
            "index": self._part.index,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {"choices": [choice], **self._base()}

    def _probabilities(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """llama.cpp's ``content``, and beside it what OpenAI's text completions have."""
        content = probabilities_of(logprobs, self._sampling)
        if self._sampling.post_sampling_probs:
            return {"content": content}
        offsets, offset = [], self._shown_characters
        for token in content:
            offsets.append(offset)
            offset += len(token["token"])
        return {
            "content": content,
            "tokens": [token["token"] for token in content],
            "token_logprobs": [token["logprob"] for token in content],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in content
            ],
            "text_offset": offsets,
        }

    def _base(self) -> dict[str, Any]:
        return {**head_of(self._record), "object": "text_completion"}
