"""llama.cpp's own events, as far as nodes know them too: settings, and picking fields. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from replay.request import GenerationRequest

_ABSENT = object()
_FLOAT = struct.Struct("<f")


def generation_settings(request: GenerationRequest) -> dict[str, Any]:
    """How a generation is set up, in llama.cpp's order; numbers are rounded to 32 bits."""
    sampling, context, options = request.sampling, request.context, request.render
    return {
        "seed": sampling.seed,
        "temperature": _float32(sampling.temperature),
        "dynatemp_range": _float32(sampling.dynatemp_range),
        "dynatemp_exponent": _float32(sampling.dynatemp_exponent),
        "top_k": sampling.top_k,
        "top_p": _float32(sampling.top_p),
        "min_p": _float32(sampling.min_p),
        "top_n_sigma": _float32(sampling.top_n_sigma),
        "xtc_probability": _float32(sampling.xtc_probability),
        "xtc_threshold": _float32(sampling.xtc_threshold),
        "typical_p": _float32(sampling.typical_p),
        "repeat_last_n": sampling.repeat_last_n,
        "repeat_penalty": _float32(sampling.repeat_penalty),
        "presence_penalty": _float32(sampling.presence_penalty),
        "frequency_penalty": _float32(sampling.frequency_penalty),
        "dry_multiplier": _float32(sampling.dry_multiplier),
        "dry_base": _float32(sampling.dry_base),
        "dry_allowed_length": sampling.dry_allowed_length,
        "dry_penalty_last_n": sampling.dry_penalty_last_n,
        "mirostat": sampling.mirostat,
        "mirostat_tau": _float32(sampling.mirostat_tau),
        "mirostat_eta": _float32(sampling.mirostat_eta),
        "adaptive_target": _float32(sampling.adaptive_target),
        "adaptive_decay": _float32(sampling.adaptive_decay),
        "max_tokens": request.max_tokens,
        "n_predict": request.max_tokens,
        "n_keep": context.n_keep,
        "n_discard": context.n_discard,
        "ignore_eos": sampling.ignore_eos,
        "stream": options.stream,
        "n_probs": sampling.n_probs,
        "min_keep": sampling.min_keep,
        "chat_format": "Content-only",
        "reasoning_format": "none",
        "reasoning_in_content": False,
        "generation_prompt": "",
        "samplers": list(sampling.samplers),
        "speculative.types": "none",
        "timings_per_token": options.timings_per_token,
        "post_sampling_probs": sampling.post_sampling_probs,
        "backend_sampling": False,
        "lora": [{"id": place, "scale": _float32(scale)} for place, scale in request.lora],
    }


def _float32(number: float) -> float:
    """The number as a 32-bit float has it; 0.8 becomes 0.800000011920929."""
    rounded: float = _FLOAT.unpack(_FLOAT.pack(number))[0]
    return rounded


def picked(event: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """What the paths (``a/b``) lead to in an event, each under its whole name."""
    found = {path: _at(event, path) for path in paths}
    return {path: value for path, value in found.items() if value is not _ABSENT}


def _at(value: Any, path: str) -> Any:
    if path in value:  # it has been picked before
        return value[path]
    for name in path.split("/"):
        value = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value
