"""llama.cpp's own completion events: each step's text and tokens, then everything. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference_worker.answer import AnswerParser
from inference_worker.engine import Finish, FinishReason, Timings, TokenLogprobs
from inference_worker.rendering.parts import Part, Progress, probabilities_of, timings_of
from replay import frames
from replay.native_events import generation_settings, picked
from replay.records import SessionRecord
from replay.request import GenerationRequest

ANY_SLOT = -1
"""A session has no slot of its own: the next attempt may run in another one."""


class NativeRenderer:
    """One choice's events; the last one has ``stop: true``, and nothing follows it."""

    def __init__(
        self,
        record: SessionRecord,
        request: GenerationRequest,
        parser: AnswerParser,
        part: Part | None = None,
    ) -> None:
        self._record = record
        self._request = request
        self._index = part.index if part else 0
        self._prompt = self._index // request.n
        self._prompt_tokens = (request.prompt_lengths or (record.prompt_token_count,))[self._prompt]
        self._has_new_line = False

    def step(
        self,
        text: str,
        *,
        tokens: int,
        timings: Timings | None,
        logprobs: Sequence[TokenLogprobs] = (),
        ids: Sequence[int] = (),
    ) -> bytes:
        """An event for every token, whether it shows text or not."""
        self._has_new_line = self._has_new_line or "\n" in text
        event = self._partial(text, ids, tokens)
        if self._request.render.timings_per_token:
            event |= timings_of(timings)
        if logprobs:
            told = probabilities_of(logprobs, self._request.sampling)
            event["completion_probabilities"] = told
        return frames.data(event)

    def progress(self, progress: Progress) -> bytes:
        """An event without text or tokens."""
        return frames.data({**self._partial("", (), 0), **progress.shown()})

    def _partial(self, text: str, ids: Sequence[int], tokens: int) -> dict[str, Any]:
        return {
            "index": self._index,
            "content": text,
            "tokens": list(ids),
            "stop": False,
            "id_slot": ANY_SLOT,
            "tokens_predicted": tokens,
            "tokens_evaluated": self._prompt_tokens,
        }

    def finish(self, finish: Finish, *, tokens: int, timings: Timings | None) -> bytes:
        """What the generation was and how it ended; of that a stream shows what was asked for."""
        options = self._request.render
        event = self.final(finish, tokens=tokens, timings=timings)
        if options.stream and options.response_fields:
            # Of several choices nobody could tell otherwise which one has ended.
            named = ["index"] if self._request.choices > 1 else []
            event = picked(event, [*named, *options.response_fields])
        return frames.data(event)

    def final(self, finish: Finish, *, tokens: int, timings: Timings | None) -> dict[str, Any]:
        """The last event, whole."""
        return {
            "index": self._index,
            "content": "",
            "tokens": [],
            "id_slot": ANY_SLOT,
            "stop": True,
            "model": self._record.model,
            "tokens_predicted": tokens,
            "tokens_evaluated": self._prompt_tokens,
            "generation_settings": self._settings(),
            "prompt": self._request.prompts[self._prompt],
            "has_new_line": self._has_new_line,
            "truncated": finish.is_truncated,
            "stop_type": _stop_type(finish),
            "stopping_word": finish.stopping_word,
            # The last token was sampled, but never fed.
            "tokens_cached": self._prompt_tokens + max(0, tokens - 1),
            **timings_of(timings),
        }

    def _settings(self) -> dict[str, Any]:
        request, sampling = self._request, self._request.sampling
        told = generation_settings(request)
        # llama.cpp forbids what would end the answer by biases too, and says so.
        ends = request.format.end_tokens if sampling.ignore_eos else ()
        biases = [
            *({"bias": bias, "token": token} for token, bias in sampling.logit_bias),
            *({"bias": None, "token": token} for token in ends),
        ]
        return {
            **told,
            "dry_sequence_breakers": list(sampling.dry_sequence_breakers),
            "stop": list(request.stop),
            "logit_bias": biases,
            "grammar": sampling.grammar,
            "grammar_lazy": bool(sampling.grammar_triggers),
            "grammar_triggers": list(sampling.grammar_triggers),
            "preserved_tokens": [],
        }


def _stop_type(finish: Finish) -> str:
    if finish.reason is FinishReason.LENGTH:
        return "limit"
    return "word" if finish.stopping_word else "eos"
