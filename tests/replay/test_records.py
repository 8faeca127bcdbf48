"""Records: what is written comes back, and versions live beside each other."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.identity import Conversation
from replay.records import (
    FINAL_STATES,
    PROMPT_TOKEN,
    REASONS,
    SUMMARY_FIELDS,
    TOKEN,
    Chunk,
    End,
    NewSession,
    Reason,
    SessionRecord,
    State,
    Token,
    pack_prompt,
    pack_tokens,
    unpack_prompt,
    unpack_tokens,
)

MINIMAL = {b"tenant": b"t", b"conversation": b"c", b"name": b"c", b"model": b"m", b"epoch": b"9"}
NEW = NewSession(
    conversation=Conversation("t", "c"),
    name="c::m",
    model="m",
    dialect="openai.chat",
    request="{}",
    prompt=(1, 2**32 - 1, 0),
    prefill_chunk_tokens=128,
    completion_id="chatcmpl-1",
    id_seed="s",
    retention_s=0.0015,
    ping_interval_s=-1,
    queue_number=3,
    extra={"later": "field"},
)


def raw(new: NewSession, **more: str) -> dict[bytes, bytes]:
    written = {**new.to_fields(), **more}
    return {k.encode(): v if isinstance(v, bytes) else v.encode() for k, v in written.items()}


def test_a_new_session_is_read_back_as_it_was_written() -> None:
    record = SessionRecord.from_fields(raw(NEW, epoch="9"))
    for name in ("name", "model", "dialect", "prompt", "completion_id", "ping_interval_s"):
        assert getattr(record, name) == getattr(NEW, name)
    assert (record.tenant, record.conversation, record.epoch) == ("t", "c", 9)
    assert (record.prompt_token_count, record.retention_ms) == (3, 2)
    assert (record.state, record.doubts) == (State.QUEUED, 0)


def test_unknown_fields_are_left_out() -> None:
    assert SessionRecord.from_fields({**MINIMAL, b"colour": b"\xff"}) == SessionRecord.from_fields(
        MINIMAL
    )


def test_missing_fields_have_their_defaults() -> None:
    record = SessionRecord.from_fields(MINIMAL)
    assert record == SessionRecord("t", "c", "c", "m", 9)
    assert record.ref.path() == "t/c/m/9"


@pytest.mark.parametrize("missing", MINIMAL)
def test_a_hash_that_names_no_session_is_no_record(missing: bytes) -> None:
    with pytest.raises(KeyError):
        SessionRecord.from_fields({k: v for k, v in MINIMAL.items() if k != missing})


def test_bytes_that_are_no_text_do_not_break_a_reader() -> None:
    assert SessionRecord.from_fields({**MINIMAL, b"reason": b"\xff!"}).reason == "\ufffd!"


def test_a_summary_has_all_but_the_two_large_fields() -> None:
    known = {item.name for item in fields(SessionRecord)}
    assert known - set(SUMMARY_FIELDS) == {"prompt", "request"}


@pytest.mark.parametrize("name", ["c", "c::m", "said"])
def test_a_session_answers_to_its_names(name: str) -> None:
    record = SessionRecord.from_fields({**MINIMAL, b"name": b"said"})
    assert record.answers_to(name)


@pytest.mark.parametrize("name", ["", "c::", "c::n", "C", "c::m::"])
def test_a_session_answers_to_no_other_name(name: str) -> None:
    assert not SessionRecord.from_fields(MINIMAL).answers_to(name)


tokens = st.builds(
    Token, st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1)
)


@given(st.lists(tokens, max_size=20))
def test_tokens_come_back_from_the_token_string(sampled: list[Token]) -> None:
    packed = pack_tokens(sampled)
    assert len(packed) == TOKEN.size * len(sampled) == 8 * len(sampled)
    assert unpack_tokens(packed) == sampled


@given(st.lists(tokens, min_size=1, max_size=20), st.data())
def test_a_tokens_index_is_its_place(sampled: list[Token], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(sampled) - 1))
    assert unpack_tokens(pack_tokens(sampled)[8 * index : 8 * index + 8]) == [sampled[index]]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_a_prompt_comes_back(prompt: list[int]) -> None:
    assert len(pack_prompt(prompt)) == PROMPT_TOKEN.size * len(prompt)
    assert unpack_prompt(pack_prompt(prompt)) == tuple(prompt)


def test_every_final_state_has_its_own_reasons_and_every_reason_a_state() -> None:
    assert set(REASONS) == FINAL_STATES
    every = [reason for reasons in REASONS.values() for reason in reasons]
    assert len(every) == len(set(every))
    assert set(every) == set(Reason)


@pytest.mark.parametrize("state", State)
def test_a_state_is_final_where_nothing_follows(state: State) -> None:
    assert state.is_final == (state not in (State.QUEUED, State.LOADING, State.RUNNING))


@given(st.binary(max_size=20), st.integers(0, 100), st.data())
def test_a_cut_chunk_is_what_lies_past_the_offset(
    stored: bytes, start: int, data: st.DataObject
) -> None:
    chunk = Chunk(start + len(stored), stored)
    offset = data.draw(st.integers(0, chunk.end))
    cut = chunk.cut(offset)
    assert cut.end == chunk.end
    assert cut.start == max(start, offset)
    assert cut.data == stored[max(0, offset - start) :]


def test_an_end_is_read_with_fields_of_a_later_version() -> None:
    text = b'{"state":"failed","reason":"engine","size":12,"tokens":7}'
    assert End.from_json(text) == End(State.FAILED, "engine", 12)
