from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from inference_worker.context_shift import Shift
from inference_worker.engine import EngineFailed, PromptInvalid, PromptTooLong, SequenceSpec
from inference_worker.fitting import check_fits
from inference_worker.scripted_engine import open_scripted_engine
from replay.adapters import Adapter
from replay.request import SamplingParams

ADAPTERS = (Adapter("/a", "A"), Adapter("/b", "B"))
MODEL = open_scripted_engine(context_tokens=64, adapters=ADAPTERS).model
FITS = SequenceSpec(
    "one",
    tuple(range(63)),
    SamplingParams(seed=1),
    shift=Shift(64),
    adapters=(("B", 1.0), ("A", 0.5)),
)


def test_what_was_prepared_for_this_model_fits() -> None:
    check_fits(MODEL, FITS)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"prompt": ()}, PromptInvalid, "empty"),
        ({"prompt": tuple(range(64))}, PromptTooLong, "64 tokens"),
        ({"shift": Shift(65)}, EngineFailed, "a context of 65 tokens"),
        ({"adapters": (("A", 1.0), ("C", 1.0))}, EngineFailed, "adapters that are not here: C"),
    ],
)
def test_what_does_not_says_why(change: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        check_fits(MODEL, replace(FITS, **change))
