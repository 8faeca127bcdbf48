"""Keys: one slot for a conversation, one key for a thing, whatever a client calls itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from replay import keys
from replay.identity import Conversation, SessionRef, conversation_of

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    "ab:{}/%", max_size=10
)


def all_keys(ref: SessionRef) -> list[str]:
    conversation = ref.conversation
    return [
        keys.conversations(conversation),
        keys.route(conversation),
        keys.stopped(conversation, ref.conversation_id + "::" + ref.model),
        keys.record(ref),
        keys.stream(ref),
        keys.tokens(ref),
        keys.channel(ref),
    ]


@given(names, names, names)
def test_all_keys_of_a_conversation_lie_in_one_slot(tenant: str, name: str, model: str) -> None:
    ref = SessionRef(tenant, name, model, 7)
    slots = {key_slot(key.encode()) for key in all_keys(ref)}
    assert len(slots) == 1


@given(names, names, names)
def test_no_two_keys_of_a_session_are_the_same(tenant: str, name: str, model: str) -> None:
    found = all_keys(SessionRef(tenant, name, model, 7))
    assert len(set(found)) == len(found)


@given(st.lists(st.tuples(names, names, names), min_size=2, max_size=2, unique=True))
def test_two_sessions_share_no_key(pair: list[tuple[str, str, str]]) -> None:
    one, other = (SessionRef(*three, 7) for three in pair)
    assert keys.session(one) != keys.session(other)
    assert (keys.route(one.conversation) == keys.route(other.conversation)) == (
        one.conversation == other.conversation
    )


def test_prefixes_of_a_conversation_share_its_slot() -> None:
    slots = {
        key_slot(keys.route(Conversation("t", name)).encode())
        for name in ("user", "user::chat1", "user::chat1::m", conversation_of("user::m", ["m"]))
    }
    assert len(slots) == 1


def test_tenants_never_share_a_tag() -> None:
    assert keys.stem(Conversation("a", "b:c")) != keys.stem(Conversation("a:b", "c"))
    assert keys.stem(Conversation("a", "b")) == "rc:{a:b}:"


def test_the_shard_of_a_conversation_is_the_same_in_every_process() -> None:
    # str's own hash differs between processes; these three were written down once
    shards = {name: keys.live(Conversation("t", name)) for name in ("a", "b", "\u00e9::x")}
    assert shards == {
        "a": "rc:live:{13}",
        "b": "rc:live:{7}",
        "\u00e9::x": "rc:live:{5}",
    }


def test_the_watch_is_spread_over_all_shards_and_their_slots() -> None:
    used = {keys.live(Conversation("t", str(number))) for number in range(400)}
    assert used == {keys.live_shard(shard) for shard in range(keys.LIVE_SHARDS)}
    assert len({key_slot(key.encode()) for key in used}) == keys.LIVE_SHARDS


@pytest.mark.parametrize("make", [keys.worker, keys.node, keys.control, keys.queue, keys.prepare])
def test_a_name_in_a_key_is_encoded(make: object) -> None:
    key = make("org/m:Q4 {x}")  # type: ignore[operator]
    assert key.endswith(":org%2Fm%3AQ4%20%7Bx%7D")
