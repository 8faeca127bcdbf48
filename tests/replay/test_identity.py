"""Names and paths: any text comes back as it was, and no text can break a key."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replay.identity import (
    SEPARATOR,
    Conversation,
    SessionRef,
    candidates,
    conversation_of,
    decode,
    encode,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
awkward = st.text("a:/{}% \u0000\u00e9\U0001f9ea", max_size=12)
parts = st.one_of(texts, awkward)


@given(parts)
def test_an_encoded_part_comes_back_and_holds_nothing_that_a_key_is_made_of(part: str) -> None:
    encoded = encode(part)
    assert decode(encoded) == part
    assert encoded.isascii()
    assert not set(encoded) & set(":{}/ \n*?[]")


@given(parts, parts)
def test_two_parts_are_never_encoded_alike(one: str, other: str) -> None:
    assert (encode(one) == encode(other)) == (one == other)


@given(parts, parts, parts, st.integers(1, 2**53))
def test_a_session_comes_back_from_its_path(
    tenant: str, conversation: str, model: str, epoch: int
) -> None:
    ref = SessionRef(tenant, conversation, model, epoch)
    assert SessionRef.from_path(ref.path()) == ref
    assert Conversation.from_path(ref.conversation.path()) == Conversation(tenant, conversation)


@pytest.mark.parametrize("path", ["", "a", "a/b/c", "a/b/c/d/e"])
def test_what_is_no_path_of_a_conversation_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        Conversation.from_path(path)


@pytest.mark.parametrize("path", ["", "a/b", "a/b/c", "a/b/c/x", "a/b/c/1/e"])
def test_what_is_no_path_of_a_session_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        SessionRef.from_path(path)


def test_a_lone_surrogate_is_refused_and_not_written_as_something_else() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode("\ud800")


@pytest.mark.parametrize(
    ("name", "models", "conversation"),
    [
        ("c", ["m"], "c"),
        ("c::m", ["m"], "c"),
        ("c::m", ["other"], "c::m"),
        ("c::alias", ["m", "alias"], "c"),
        ("a::b::m", ["m"], "a::b"),
        ("a::b::m", ["b"], "a::b::m"),
        ("a::org/m:Q4", ["org/m:Q4"], "a"),
        ("a::m::m", ["m"], "a::m"),
        ("a:m", ["m"], "a:m"),
        ("::m", ["m"], "::m"),
        ("::", ["m"], "::"),
        ("m", ["m"], "m"),
        ("c::m::", ["m"], "c::m::"),
        ("c::", [""], "c"),
        ("c::m", [], "c::m"),
    ],
)
def test_only_the_bodys_model_is_taken_off_a_name(
    name: str, models: list[str], conversation: str
) -> None:
    assert conversation_of(name, models) == conversation


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("c", ["c"]),
        ("a::b", ["a::b", "a"]),
        ("a::b::m", ["a::b::m", "a::b", "a"]),
        ("a::", ["a::", "a"]),
        ("a::b::", ["a::b::", "a::b", "a"]),
        ("::", ["::"]),
        ("::m", ["::m"]),
        ("a:b", ["a:b"]),
        ("", [""]),
    ],
)
def test_a_name_without_a_body_may_mean_these_the_longest_first(
    name: str, found: list[str]
) -> None:
    assert candidates(name) == found


@given(parts.filter(bool), parts)
@example(conversation="a", model=":m")
@example(conversation="a:", model="m")
def test_the_conversation_of_a_post_is_among_the_candidates_of_its_name(
    conversation: str, model: str
) -> None:
    name = conversation + SEPARATOR + model
    assert conversation_of(name, [model]) in candidates(name)


@given(parts.filter(bool))
@example(name="a:::m")
def test_all_that_a_name_may_mean_lies_in_one_slot(name: str) -> None:
    bases = {Conversation("t", candidate).base for candidate in candidates(name)}
    assert len(bases) == 1
