"""``/infill``: bodies to requests."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.infill import INFILL, parse
from api.dialects.llama_completion import NATIVE
from api.problems import RequestInvalid
from replay.request import Infill

HOLE = {"input_prefix": "a", "input_suffix": "b"}


def test_a_hole_is_a_native_completion() -> None:
    body = {**HOLE, "prompt": "c", "input_extra": [{"text": "F", "filename": "f"}, {"text": "G"}]}
    request = parse({**body, "n_predict": 3}, random_seed=1)
    assert request.infill == Infill("a", "b", "c", (("f", "F"), ("tmp", "G")))
    assert (request.dialect, request.prompts, request.max_tokens) == ("llama.completion", (), 3)
    assert INFILL.fold is NATIVE.fold


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"input_prefix": "a"}, "input_suffix"),
        ({"input_suffix": "a"}, "input_prefix"),
        ({**HOLE, "input_suffix": 1}, "input_suffix"),
        ({**HOLE, "prompt": [1]}, "prompt"),
        ({**HOLE, "input_extra": {}}, "input_extra"),
        ({**HOLE, "input_extra": ["x"]}, "input_extra"),
        ({**HOLE, "input_extra": [{"text": "x", "filename": 1}]}, "input_extra"),
        ({**HOLE, "input_extra": [{"text": "x"}] * 257}, "input_extra"),
        ({**HOLE, "input_extra": [{"text": "x" * (1 << 20)}] * 16}, "input_prefix"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_wrong_is_named(body: dict[str, Any], name: str) -> None:
    with pytest.raises(RequestInvalid, match=f"^Field '{name}'"):
        parse(body, random_seed=1)
