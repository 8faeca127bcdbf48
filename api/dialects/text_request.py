"""What the bodies of the dialects share that give texts to go on from, without a template. Pure."""

from __future__ import annotations

from api.context import parse_context
from api.dialects.completing import (
    choices,
    indent,
    max_predict_ms,
    max_tokens,
    ping_interval,
    stops,
)
from api.dialects.prompts import parse_prompts
from api.fields import Fields
from api.lora import parse_scales
from replay.request import Constraint, Dialect, GenerationRequest, RenderOptions, SamplingParams


def text_request(
    dialect: Dialect,
    fields: Fields,
    *,
    sampling: SamplingParams,
    render: RenderOptions,
    constraint: Constraint | None,
) -> GenerationRequest:
    """What a body asks for that gives texts to go on from. Raises RequestInvalid."""
    prompts = parse_prompts(fields)
    return GenerationRequest(
        dialect=dialect,
        model=fields.text("model"),
        messages=(),
        prompts=prompts,
        n=choices(fields, prompts=len(prompts)),
        sampling=sampling,
        stop=stops(fields),
        max_tokens=max_tokens(fields),
        max_predict_ms=max_predict_ms(fields),
        indent=indent(fields),
        render=render,
        ping_interval_s=ping_interval(fields),
        context=parse_context(fields),
        lora=parse_scales(fields.get("lora")),
        constraint=constraint,
    )
