"""Bytes to JSON: any bytes are a value that a record can hold, or a mistake."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.json_body import parse_json, parse_object
from api.problems import RequestInvalid
from replay.strict_json import LEVELS_MAX


@given(body=st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_value_or_a_mistake(body: bytes) -> None:
    try:
        value = parse_json(body)
    except RequestInvalid:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"NaN", b"-Infinity", b"1e999", b"[" * 100_000, b"1" * 5000, b"{}x"],
    ids=["empty", "half", "bytes", "NaN", "Infinity", "huge", "deep", "digits", "more"],
)
def test_what_is_no_json_is_a_mistake(body: bytes) -> None:
    with pytest.raises(RequestInvalid, match="invalid body"):
        parse_json(body)


def test_levels_are_counted_and_not_brackets() -> None:
    nested = b"[" * LEVELS_MAX + b"]" * LEVELS_MAX
    assert parse_json(nested)
    assert parse_json(b'["' + b"[" * 1000 + b'", ' + b"{}," * 1000 + b"[]]")
    with pytest.raises(RequestInvalid, match=f"nested over {LEVELS_MAX} levels"):
        parse_json(b'{"a": ' + nested + b"}")


def test_a_lone_surrogate_becomes_a_replacement_character() -> None:
    assert parse_json(b'{"a\\ud800":["x\\udfffy","\\ud83d\\ude42"]}') == {
        "a\ufffd": ["x\ufffdy", "\U0001f642"]
    }


@pytest.mark.parametrize("body", [b"[]", b"3", b'"x"', b"null"])
def test_a_body_must_be_an_object(body: bytes) -> None:
    with pytest.raises(RequestInvalid, match="expected a JSON object"):
        parse_object(body)
