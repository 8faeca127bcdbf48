from __future__ import annotations

from typing import Any

import pytest

from api.lora import SCALES_MAX, parse_scales
from api.problems import RequestInvalid
from replay.adapters import Scales


@pytest.mark.parametrize(
    ("value", "scales"),
    [
        (None, ()),
        ([], ()),
        ([{"id": 1, "scale": 0.5}, {"id": 0, "scale": 2}], ((0, 2.0), (1, 0.5))),
        ([{"id": 0}], ((0, 0.0),)),
        ([{"id": 0, "scale": 1}, {"id": 0, "scale": -1}], ((0, -1.0),)),
    ],
    ids=["absent", "none", "two", "without a scale", "the last counts"],
)
def test_scales_are_read_as_llama_cpp_reads_them(value: Any, scales: Scales) -> None:
    assert parse_scales(value) == scales


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"id": 0}, "Field 'lora': expected an array of objects, but got an object"),
        ([0], "Field 'lora[0]': expected an object, but got a number"),
        ([{"scale": 1}], "Field 'lora[0].id': expected an integer, but got null"),
        ([{"id": 0}, {"id": "0"}], "Field 'lora[1].id': expected an integer, but got a string"),
        ([{"id": 0, "scale": "1"}], "Field 'lora[0].scale': expected a number, but got a string"),
        ([{"id": 0}] * (SCALES_MAX + 1), "Field 'lora': more than 256 adapters"),
    ],
)
def test_a_mistake_names_its_place(value: Any, message: str) -> None:
    with pytest.raises(RequestInvalid) as raised:
        parse_scales(value)
    assert str(raised.value) == message


@pytest.mark.parametrize("entry", [{"id": -1}, {"id": 2**31}, {"id": 0, "scale": 1e9}])
def test_what_c_could_not_hold_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(RequestInvalid, match=r"Field 'lora\[0\]\..*Value must be between"):
        parse_scales([entry])
