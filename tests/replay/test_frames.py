"""The frames that anybody may write: whole, compact, and valid whatever they carry."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay import frames
from replay.records import FINAL_STATES, REASONS, State
from replay.request import Dialect

ENDS = [(state, reason) for state in sorted(FINAL_STATES) for reason in sorted(REASONS[state])]


def is_whole_frames(body: bytes) -> bool:
    """Every frame is one line and an empty one, as an SSE parser wants it."""
    return body.endswith(b"\n\n") and all(
        frame.count(b"\n") == 0 and frame[:1] in (b"d", b":") for frame in body[:-2].split(b"\n\n")
    )


@given(st.text(st.characters()))
def test_any_text_makes_one_frame_of_valid_utf8(text: str) -> None:
    frame = frames.data({"content": text})
    assert is_whole_frames(frame)
    shown = json.loads(frame.decode("utf-8").removeprefix("data: "))["content"]
    assert shown == frames.LONE_SURROGATE.sub("\ufffd", text)


def test_each_lone_surrogate_becomes_one_replacement_character() -> None:
    assert frames.compact("a\ud800b\udfff\ud83d\ude00") == '"a\ufffdb\ufffd\ufffd\ufffd"'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_json_number_is_refused(number: float) -> None:
    with pytest.raises(ValueError):
        frames.compact({"x": number})


def test_the_comments_are_these_bytes() -> None:
    assert frames.PING == b":\n\n"
    assert frames.comment("queued 3") == b": queued 3\n\n"
    assert (
        frames.end_comment(State.STOPPED, "client")
        == b': end {"state":"stopped","reason":"client"}\n\n'
    )


@pytest.mark.parametrize(("state", "reason"), ENDS)
def test_every_end_but_a_completed_one_says_why_in_its_last_frame(
    state: State, reason: str
) -> None:
    closing = frames.closing("openai.chat", state, reason)
    if state is State.COMPLETED:
        assert closing == b""
        return
    assert is_whole_frames(closing)
    assert closing.endswith(frames.end_comment(state, reason))
    has_error = closing.startswith(b'data: {"error":')
    assert has_error == (state in (State.FAILED, State.LOST))
    assert b"[DONE]" not in closing


@pytest.mark.parametrize(("state", "reason"), ENDS)
def test_an_error_event_has_words_for_people(state: State, reason: str) -> None:
    if state in (State.FAILED, State.LOST):
        closing = frames.closing("openai.chat", state, reason)
        error = json.loads(closing.split(b"\n\n")[0].removeprefix(b"data: "))["error"]
        assert error == {
            "code": 500,
            "message": frames.MESSAGES[state, reason],
            "type": "server_error",
        }


def test_a_detail_takes_the_place_of_the_general_message() -> None:
    assert b"what broke" in frames.closing("openai.chat", State.FAILED, "engine", "what broke")


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "not_found_error"), (418, "invalid_request_error"), (502, None)]
)
def test_an_error_is_typed_by_its_status(status: int, kind: str | None) -> None:
    body = frames.error_body(status, "m", param="x")
    assert body["error"] == {
        "code": status,
        "message": "m",
        "type": kind or "server_error",
        "param": "x",
    }


@pytest.mark.parametrize("dialect", get_args(Dialect))
def test_each_dialect_has_its_error_event_which_everybody_can_read(dialect: Dialect) -> None:
    error, end = frames.split(frames.closing(dialect, State.FAILED, "engine", "broken: {}"))
    assert frames.error_of(error) == "broken: {}"
    assert frames.is_comment(end) and not frames.is_comment(error)
    name, _, data = error.rpartition(b"data: ")
    is_named = dialect in ("openai.responses", "anthropic.messages")
    assert name == (b"event: error\n" if is_named else b"")
    assert json.loads(data) == frames.value_of(error)


def test_what_is_no_error_is_not_read_as_one() -> None:
    for frame in (b'data: {"choices":[]}', b"data: [DONE]", b'event: ping\ndata: {"error":1}'):
        assert frames.error_of(frame) is None
    assert frames.value_of(b"data: [DONE]") == {}
    assert frames.event("ping", {"a": "data: "}) == b'event: ping\ndata: {"a":"data: "}\n\n'
    assert frames.value_of(b'event: ping\ndata: {"a":"data: "}') == {"a": "data: "}
