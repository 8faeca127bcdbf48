"""JSON that a record can hold; ``test_json_body`` tries how requests are read by it."""

from __future__ import annotations

import json

import pytest

from replay.strict_json import LEVELS_MAX, call_arguments, strict_json


def test_lone_surrogates_are_mended() -> None:
    assert strict_json('["\\ud800", "\\ud83d\\ude00"]') == ["\ufffd", "\U0001f600"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("NaN", "no number"),
        ("[1e999]", "out of range"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "too deeply"),
    ],
)
def test_what_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ('{"a": 1}', {"a": 1}),
        ('{"a": "\\ud800"}', {"a": "\ufffd"}),
        ('{"a": ', {"INVALID_JSON": '{"a": '}),
        ('{"a": NaN}', {"INVALID_JSON": '{"a": NaN}'}),
        ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)
def test_arguments_are_an_object_that_can_be_written(
    text: str, expected: dict[str, object]
) -> None:
    assert call_arguments(text) == expected
    json.dumps(call_arguments(text), ensure_ascii=False, allow_nan=False).encode()


def test_arguments_that_are_too_deep_are_told_as_text() -> None:
    deep = '{"a": ' + "[" * LEVELS_MAX + "]" * LEVELS_MAX + "}"
    assert call_arguments(deep) == {"INVALID_JSON": deep}
