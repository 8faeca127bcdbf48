"""OpenAI's text completions, with llama.cpp's additions: request in, log to JSON out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.constraints import parse_constraint
from api.dialects import Dialect
from api.dialects.chunk_fold import ChunkFold
from api.dialects.completing import refuse_not_built
from api.dialects.text_request import text_request
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
    return text_request(
        "openai.completions",
        fields,
        sampling=_sampling(fields, random_seed),
        render=RenderOptions(
            stream=stream,
            include_usage=stream and wants_usage,
            timings_per_token=fields.boolean("timings_per_token"),
            return_progress=stream and fields.boolean("return_progress"),
            verbose=fields.boolean("verbose"),
        ),
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


class CompletionFold(ChunkFold):
    """Of text chunks."""

    def take_choice(self, choice: dict[str, Any]) -> None:
        """See ``ChunkFold``."""
        at = self._choices.setdefault(
            choice["index"], {"text": [], "logprobs": {}, "finish_reason": None}
        )
        at["text"].append(choice["text"])
        at["finish_reason"] = choice["finish_reason"] or at["finish_reason"]
        for name, told in (choice["logprobs"] or {}).items():
            at["logprobs"].setdefault(name, []).extend(told)

    def choice(self, index: int, at: dict[str, Any]) -> dict[str, Any]:
        """See ``ChunkFold``."""
        return {
            "text": "".join(at["text"]),
            "index": index,
            "logprobs": at["logprobs"] or None,
            "finish_reason": at["finish_reason"],
        }


COMPLETIONS = Dialect(
    name="openai.completions", id_prefix="cmpl-", parse=parse, fold=CompletionFold
)
