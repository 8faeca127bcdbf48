"""How much of which LoRA adapters is wanted, in llama.cpp's form. Pure."""

from __future__ import annotations

from typing import Any

from api.fields import FLOAT_MAX, Fields, mistyped
from api.problems import RequestInvalid
from replay.adapters import Scales

SCALES_MAX = 256


def parse_scales(value: Any, name: str = "lora") -> Scales:
    """``[{"id", "scale"}]``; of several with one id the last counts. Raises RequestInvalid."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise mistyped(name, "an array of objects", value)
    if len(value) > SCALES_MAX:
        raise RequestInvalid(f"Field '{name}': more than {SCALES_MAX} adapters")
    scales = dict(_scale(entry, f"{name}[{index}]") for index, entry in enumerate(value))
    return tuple(sorted(scales.items()))


def _scale(entry: Any, name: str) -> tuple[int, float]:
    if not isinstance(entry, dict):
        raise mistyped(name, "an object", entry)
    fields = Fields(entry, f"{name}.")
    if fields.get("id") is None:
        raise mistyped(f"{name}.id", "an integer", None)
    scale = fields.bounded_number("scale", 0.0, low=-FLOAT_MAX, high=FLOAT_MAX)
    return fields.bounded("id", 0, low=0), scale
