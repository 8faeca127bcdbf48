"""OpenAI's text completions, with llama.cpp's additions: request in, log to JSON out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.constraints import parse_constraint
from api.context import parse_context
from api.dialects import Dialect, Fold
from api.dialects.completing import (
    choices,
    max_predict_ms,
    max_tokens,
    ping_interval,
    refuse_not_built,
    stops,
)
from api.dialects.prompts import parse_prompts
from api.fields import Fields
from api.problems import RequestInvalid
from api.sampling import N_PROBS_MAX, parse_sampling
from replay.request import GenerationRequest, RenderOptions, SamplingParams


def parse(body: Mapping[str, Any], *, random_seed: int) -> GenerationRequest:
    """See ``api.dialects.Parse``."""
    fields = Fields(body)
    _refuse_extras(fields)
    refuse_not_built(body)
    stream = fields.boolean("stream")
    wants_usage = fields.object("stream_options").boolean("include_usage")
    prompts = parse_prompts(fields)
    return GenerationRequest(
        dialect="openai.completions",
        model=fields.text("model"),
        messages=(),
        prompts=prompts,
        n=choices(fields, prompts=len(prompts)),
        sampling=_sampling(fields, random_seed),
        stop=stops(fields),
        max_tokens=max_tokens(fields),
        max_predict_ms=max_predict_ms(fields),
        render=RenderOptions(
            stream=stream,
            include_usage=stream and wants_usage,
            timings_per_token=fields.boolean("timings_per_token"),
            return_progress=stream and fields.boolean("return_progress"),
        ),
        ping_interval_s=ping_interval(fields),
        context=parse_context(fields),
        constraint=parse_constraint(fields),
    )


def _refuse_extras(fields: Fields) -> None:
    if fields.boolean("echo"):
        raise RequestInvalid("Field 'echo': Only no echo is supported")
    if fields.text("suffix"):
        raise RequestInvalid("Field 'suffix': Unsupported param: suffix")
    if fields.integer("best_of", 1) != 1:
        raise RequestInvalid("Field 'best_of': Unsupported param: best_of")


def _sampling(fields: Fields, random_seed: int) -> SamplingParams:
    """``logprobs`` is how many likely tokens are told beside each; 0 tells of the chosen alone."""
    n_probs = fields.bounded("n_probs", 0, low=0, high=N_PROBS_MAX)
    n_probs = fields.bounded("logprobs", n_probs, low=0, high=N_PROBS_MAX)
    is_told = n_probs > 0 or fields.get("logprobs") is not None
    sampling = parse_sampling(fields, random_seed=random_seed)
    return replace(sampling, logprobs=is_told, n_probs=n_probs)


class CompletionFold(Fold):
    """A stream of text chunks as the JSON of ``stream: false``."""

    def __init__(self, request: GenerationRequest) -> None:
        super().__init__()
        self._choices: dict[int, dict[str, Any]] = {}
        self._shared: dict[str, Any] = {}

    def take(self, event: dict[str, Any]) -> None:
        """See ``Fold``."""
        for choice in event.pop("choices"):
            self._take_choice(choice)
        self._shared.update(event)

    def _take_choice(self, choice: dict[str, Any]) -> None:
        at = self._choices.setdefault(
            choice["index"], {"text": [], "logprobs": {}, "finish_reason": None}
        )
        at["text"].append(choice["text"])
        at["finish_reason"] = choice["finish_reason"] or at["finish_reason"]
        for name, told in (choice["logprobs"] or {}).items():
            at["logprobs"].setdefault(name, []).extend(told)

    def answer(self) -> dict[str, Any]:
        """The whole answer, in llama.cpp's key order."""
        choices = [
            {
                "text": "".join(at["text"]),
                "index": index,
                "logprobs": at["logprobs"] or None,
                "finish_reason": at["finish_reason"],
            }
            for index, at in sorted(self._choices.items())
        ]
        names = ("created", "model", "system_fingerprint", "object", "usage", "id", "timings")
        shared = {name: self._shared[name] for name in names if name in self._shared}
        return {"choices": choices, **shared}


COMPLETIONS = Dialect(
    name="openai.completions", id_prefix="cmpl-", parse=parse, fold=CompletionFold
)
