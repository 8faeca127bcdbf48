"""Read by a worker whose sampled tokens are to be counted: its file grows by a byte for each."""

import os
from typing import Any

from inference_worker.model import Draw
from inference_worker.scripted_engine import ScriptedModel

_COUNT = os.open(os.environ["SAMPLED_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_sample = ScriptedModel.sample


def _counted(self: ScriptedModel, *place: Any, **forced: Any) -> Draw:
    draw = _sample(self, *place, **forced)
    os.write(_COUNT, b".")
    return draw


ScriptedModel.sample = _counted  # type: ignore[method-assign]
