"""llama.cpp's own ``/completion``: request in, log to JSON out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.constraints import parse_constraint
from api.dialects import Dialect, Fold
from api.dialects.completing import refuse_not_built
from api.dialects.text_request import text_request
from api.fields import Fields, mistyped
from api.problems import RequestInvalid
from api.sampling import N_PROBS_MAX, parse_sampling
from replay.native_events import picked
from replay.request import GenerationRequest, RenderOptions, SamplingParams

RESPONSE_FIELDS_MAX = 256


def parse(body: Mapping[str, Any], *, random_seed: int) -> GenerationRequest:
    """See ``api.dialects.Parse``."""
    fields = Fields(body)
    refuse_not_built(body)
    stream = fields.boolean("stream")
    return text_request(
        "llama.completion",
        fields,
        sampling=_sampling(fields, random_seed),
        render=RenderOptions(
            stream=stream,
            timings_per_token=fields.boolean("timings_per_token"),
            return_progress=stream and fields.boolean("return_progress"),
            return_tokens=fields.boolean("return_tokens"),
            response_fields=_response_fields(fields.get("response_fields")),
        ),
        constraint=parse_constraint(fields, grammar_wins=True),
    )


def _sampling(fields: Fields, random_seed: int) -> SamplingParams:
    n_probs = fields.bounded("logprobs", 0, low=0, high=N_PROBS_MAX)
    n_probs = fields.bounded("n_probs", n_probs, low=0, high=N_PROBS_MAX)
    sampling = parse_sampling(fields, random_seed=random_seed)
    return replace(sampling, logprobs=n_probs > 0, n_probs=n_probs)


def _response_fields(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    expected = "an array of strings"
    if not isinstance(value, list):
        raise mistyped("response_fields", expected, value)
    if len(value) > RESPONSE_FIELDS_MAX:
        raise RequestInvalid(f"Field 'response_fields': more than {RESPONSE_FIELDS_MAX} names")
    for name in value:
        if not isinstance(name, str):
            raise mistyped("response_fields", expected, name)
    return tuple(value)


class NativeFold(Fold):
    """A stream of native events as one object, or as an array of one for each choice."""

    def __init__(self, request: GenerationRequest) -> None:
        super().__init__()
        self._render = request.render
        self._choices = request.choices
        self._events: dict[int, list[dict[str, Any]]] = {}

    def take(self, event: dict[str, Any]) -> None:
        """See ``Fold``."""
        # The last one of a stream has only the fields that were asked for.
        self._events.setdefault(event.get("index", 0), []).append(event)

    def answer(self) -> Any:
        """Of each choice the last event, and in it all that came before, where asked for."""
        # A session that was joined (if_busy) may have more than this request asked for.
        count = max([self._choices, *(index + 1 for index in self._events)])
        answers = [self._one(self._events.get(index, [])) for index in range(count)]
        return answers[0] if count == 1 else answers

    def _one(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """What one choice's events come to, also where the last is still to come."""
        partials = [event for event in events if event.get("stop") is False]
        told = [one for event in partials for one in event.get("completion_probabilities", ())]
        answer = {**(events[-1] if events else {"stop": False})}
        answer["content"] = "".join(event["content"] for event in partials)
        tokens = [token for event in partials for token in event["tokens"]]
        answer["tokens"] = tokens if self._render.return_tokens else []
        if told:
            answer["completion_probabilities"] = told
        wanted = self._render.response_fields
        return picked(answer, wanted) if wanted else answer


NATIVE = Dialect(name="llama.completion", id_prefix="cmpl-", parse=parse, fold=NativeFold)
