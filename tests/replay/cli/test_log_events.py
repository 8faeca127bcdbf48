"""A log's bytes as events, wherever they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay import frames
from replay.cli.log_events import EventSplitter, comment_of, data_of, texts

LOG = (
    b": queued 3\n\n"
    + frames.data({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
    + frames.data({"choices": [{"index": 0, "delta": {"reasoning_content": "hm "}}]})
    + frames.data({"choices": [{"index": 0, "delta": {"content": "Größe 🧪\n\n"}}]})
    + frames.data({"choices": [{"index": 1, "delta": {"content": "other choice"}}]})
    + frames.data({"choices": [], "usage": {"total_tokens": 3}})
    + b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(LOG))))
def test_the_text_does_not_depend_on_how_the_log_was_cut(cuts: list[int]) -> None:
    splitter, found = EventSplitter(), ""
    places = [0, *sorted(cuts), len(LOG)]
    for start, end in pairwise(places):
        found += "".join(texts(splitter.feed(LOG[start:end]), "openai.chat"))
    assert found == "hm Größe 🧪\n\n"


def test_a_comment_is_told_from_data() -> None:
    assert [comment_of(frame) for frame in EventSplitter().feed(LOG)[:2]] == ["queued 3", None]
    assert comment_of(b":") == ""


@pytest.mark.parametrize("frame", [b": ping", b"data: [DONE]", b'ata: {"a":1}', b'data: {"a', b""])
def test_what_is_no_json_has_no_data(frame: bytes) -> None:
    assert data_of(frame) is None
    assert list(texts([frame], "openai.chat")) == []


def test_an_unknown_dialect_is_an_error() -> None:
    with pytest.raises(KeyError):
        list(texts([b"data: 1"], "smoke.signals"))
