"""Which adapters a session runs with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from inference_worker.errors import PromptInvalid
from replay.adapters import APPLIED_MAX, Adapter, Applied, Scales


def applied(loaded: Sequence[Adapter], wanted: Scales) -> Applied:
    """What those scales come to at a worker that has ``loaded`` these. Raises PromptInvalid."""
    scales = dict(wanted) or {place: adapter.scale for place, adapter in enumerate(loaded)}
    unknown = [place for place in scales if place >= len(loaded)]
    if unknown:
        raise PromptInvalid(f"there is no adapter {unknown[0]}", "lora")
    found = [(loaded[place].sha256, scale) for place, scale in sorted(scales.items()) if scale]
    if len(found) > APPLIED_MAX:
        raise PromptInvalid(f"more than {APPLIED_MAX} adapters at once", "lora")
    return tuple(found)
