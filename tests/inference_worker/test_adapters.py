from __future__ import annotations

import pytest

from inference_worker.adapters import applied
from inference_worker.engine import PromptInvalid
from replay.adapters import Adapter, Applied, Scales

LOADED = (Adapter("/a", "A"), Adapter("/b", "B", 0.5), Adapter("/c", "C", 0.0))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ((), (("A", 1.0), ("B", 0.5))),
        (((0, 0.0),), ()),
        (((2, -1.5),), (("C", -1.5),)),
        (((2, 2.0), (1, 0.1), (0, 0.0)), (("B", 0.1), ("C", 2.0))),
    ],
    ids=["by default", "none", "one", "two, in the worker's order"],
)
def test_scales_come_to_files(wanted: Scales, found: Applied) -> None:
    assert applied(LOADED, wanted) == found


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [(((3, 0.0),), "there is no adapter 3"), (((0, 1), (1, 1), (2, 1)), "more than 2 adapters")],
)
def test_what_cannot_be_applied_names_the_field(wanted: Scales, reason: str) -> None:
    with pytest.raises(PromptInvalid, match=reason) as raised:
        applied(LOADED, wanted)
    assert raised.value.field == "lora"


def test_where_there_are_none_none_is_applied() -> None:
    assert applied((), ()) == ()
