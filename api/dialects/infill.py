"""llama.cpp's ``/infill``: a native completion of a text with a hole. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.dialects import Dialect
from api.dialects.llama_completion import NATIVE
from api.dialects.prompts import check_length
from api.fields import Fields, mistyped
from api.problems import RequestInvalid
from replay.request import GenerationRequest, Infill

EXTRA_MAX = 256
EXTRA = '"input_extra" must be an array of {"filename": string, "text": string}'


def parse(body: Mapping[str, Any], *, random_seed: int) -> GenerationRequest:
    """See ``api.dialects.Parse``. The prompt, if there is one, is what is begun in the hole."""
    fields = Fields(body)
    infill = Infill(
        prefix=_needed(fields, "input_prefix"),
        suffix=_needed(fields, "input_suffix"),
        prompt=fields.text("prompt"),
        extra=_extra(fields.get("input_extra")),
    )
    texts = [text for file in infill.extra for text in file]
    check_length("input_prefix", [infill.prefix, infill.suffix, infill.prompt, *texts])
    request = NATIVE.parse({**body, "prompt": "-"}, random_seed=random_seed)
    return replace(request, prompts=(), infill=infill)


def _needed(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise mistyped(name, "a string", value)
    return value


def _extra(value: Any) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RequestInvalid(f"Field 'input_extra': {EXTRA}")
    if len(value) > EXTRA_MAX:
        raise RequestInvalid(f"Field 'input_extra': more than {EXTRA_MAX} files")
    return tuple(map(_file, value))


def _file(value: Any) -> tuple[str, str]:
    text = value.get("text") if isinstance(value, dict) else None
    name = value.get("filename", "tmp") if isinstance(value, dict) else None
    if not isinstance(text, str) or not isinstance(name, str):
        raise RequestInvalid(f"Field 'input_extra': {EXTRA}")
    return name, text


INFILL = Dialect(name=NATIVE.name, id_prefix=NATIVE.id_prefix, parse=parse, fold=NATIVE.fold)
