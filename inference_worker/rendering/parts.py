"""What renderers share: choices, ids, usage, timings, probabilities, in llama.cpp's words. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from inference_worker.engine import Candidate, Timings, TokenLogprobs
from replay.records import SessionRecord
from replay.request import SamplingParams

PROGRESS_KEY = b'"prompt_progress":'
"""In the log where an attempt has told of its prompt's progress; no text has it unescaped."""

_Decoder = codecs.getincrementaldecoder("utf-8")


class Together:
    """What the choices of one answer share: how many have not ended, and the tokens of all."""

    def __init__(self, choices: int = 1) -> None:
        self.left = choices
        self.tokens = 0

    def ended(self, tokens: int) -> bool:
        """One choice has ended with so many tokens; whether it was the last to."""
        self.left -= 1
        self.tokens += tokens
        return self.left == 0


@dataclass(frozen=True, slots=True)
class Part:
    """Which choice it is, and what it shares with the others."""

    index: int = 0
    together: Together = field(default_factory=Together)


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of a prompt's tokens are computed, those that a cache held among them.

    ``timings`` are there where each token's are asked for.
    """

    total: int
    cache: int
    processed: int
    time_ms: int
    timings: Timings | None = None

    def shown(self) -> dict[str, Any]:
        """llama.cpp's fields."""
        told = {
            "total": self.total,
            "cache": self.cache,
            "processed": self.processed,
            "time_ms": self.time_ms,
        }
        return {"prompt_progress": told, **timings_of(self.timings)}


def head_of(record: SessionRecord) -> dict[str, Any]:
    """What each of OpenAI's completion chunks says of its answer."""
    return {
        "created": record.created_ms // 1000,
        "id": record.completion_id,
        "model": record.model,
        "system_fingerprint": "b1-replay-cluster",
    }


def usage_of(prompt_tokens: int, tokens: int, timings: Timings | None) -> dict[str, Any]:
    """OpenAI's usage of an answer of so many tokens."""
    return {
        "completion_tokens": tokens,
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": timings.cache_n if timings else 0},
    }


def probabilities_of(
    told: Iterable[TokenLogprobs], sampling: SamplingParams
) -> list[dict[str, Any]]:
    """The tokens and how likely they were."""
    is_post = sampling.post_sampling_probs
    return [_token(one, is_post=is_post) for one in told]


def _token(told: TokenLogprobs, *, is_post: bool) -> dict[str, Any]:
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


def timings_of(timings: Timings | None) -> dict[str, Any]:
    """llama.cpp's keys. The rate of generation leaves the first token out, which prefill made."""
    if timings is None:
        return {}
    prompt_ms, predicted_ms = round(timings.prompt_ms, 3), round(timings.predicted_ms, 3)
    steps = max(0, timings.predicted_n - 1)
    spent = {
        "cache_n": timings.cache_n,
        "prompt_n": timings.prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": _ratio(prompt_ms, timings.prompt_n),
        "prompt_per_second": _ratio(1000 * timings.prompt_n, prompt_ms),
        "predicted_n": timings.predicted_n,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": _ratio(predicted_ms, steps),
        "predicted_per_second": _ratio(1000 * steps, predicted_ms),
    }
    return {"timings": spent}


def _ratio(over: float, under: float) -> float:
    """As exact as what it is made of: clients compute it again and compare."""
    return round(over / under, 6) if under > 0 else 0.0
