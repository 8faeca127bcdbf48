"""Prepare at the worker: every question gets an answer, and none can end the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from inference_worker import preparing
from inference_worker.batch_loop import BatchEngine
from inference_worker.engine import EngineFailed
from inference_worker.preparing import Preparing, prepared
from inference_worker.scripted_engine import open_scripted_engine
from replay import keys
from replay.prepare import QUESTION_TTL_S, Answer, Prepared, Question, Refused
from replay.redis_connections import SOCKET_TIMEOUT_S
from replay.redis_plane import connect
from replay.request import LogitBias

pytestmark = pytest.mark.anyio
LIMIT_S = 10.0
HELLO = ({"role": "user", "content": "hello"},)


@pytest.fixture(scope="module")
def engine() -> Iterator[BatchEngine]:
    one = open_scripted_engine(name="m", context_tokens=64)
    yield one
    one.close()


def asked(engine: BatchEngine, *messages: Any) -> Prepared | Refused:
    return prepared(engine, Question("q", "n", "m", messages), 128)


def test_a_prompt_is_answered_with_its_tokens_and_how_they_are_fed(engine: BatchEngine) -> None:
    found = asked(engine, *HELLO)
    assert found == Prepared(tuple(engine.prompt_tokens(HELLO)), 128, engine.model.sha256 or "")


def test_a_bias_on_a_text_is_one_on_each_of_its_tokens(engine: BatchEngine) -> None:
    biases: tuple[LogitBias, ...] = (("ab", None), (3, 0.5))
    found = prepared(engine, Question("q", "n", "m", HELLO, biases), 128)
    assert isinstance(found, Prepared)
    assert found.logit_bias == ((ord("a"), None), (ord("b"), None), (3, 0.5))


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_bias_on_a_token_that_there_is_not_is_refused(engine: BatchEngine, token: int) -> None:
    found = prepared(engine, Question("q", "n", "m", HELLO, ((token, 1.0),)), 128)
    assert isinstance(found, Refused)
    assert (found.kind, found.param) == ("invalid", "logit_bias")
    assert f"no token {token}" in found.message


@pytest.mark.parametrize("room", [1, 0, -1])
def test_a_prompt_must_leave_room_for_one_token(engine: BatchEngine, room: int) -> None:
    context = engine.model.context_tokens
    empty = len(engine.prompt_tokens([{"role": "user", "content": ""}]))
    length = context - room - empty
    found = asked(engine, {"role": "user", "content": "\x01" * length})
    if room > 0:
        assert isinstance(found, Prepared)
        assert len(found.prompt) == context - 1
    else:
        assert isinstance(found, Refused)
        assert (found.kind, found.prompt_tokens, found.context_tokens) == (
            "context",
            context - room,
            context,
        )
        assert str(found.prompt_tokens) in found.message


def test_messages_that_the_template_refuses_are_the_clients_mistake(engine: BatchEngine) -> None:
    found = asked(engine, {"role": "user", "content": [{"type": "image_url"}]})
    assert isinstance(found, Refused)
    assert (found.kind, found.param) == ("invalid", "messages")


def test_an_engine_that_fails_is_our_mistake(
    engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(messages: Any) -> list[int]:
        raise EngineFailed("broken")

    monkeypatch.setattr(engine, "prompt_tokens", fail)
    assert asked(engine, *HELLO) == Refused("engine", "broken")


def test_a_template_that_shows_nothing_is_refused(
    engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "prompt_tokens", lambda messages: [])
    found = asked(engine, *HELLO)
    assert isinstance(found, Refused)
    assert found.kind == "invalid"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "role", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
message = st.dictionaries(st.sampled_from(["role", "content", "name", "x"]), values, max_size=3)


@settings(max_examples=200, deadline=None)
@given(messages=st.lists(message, max_size=3))
def test_any_messages_are_an_answer_and_never_an_exception(
    engine: BatchEngine, messages: list[dict[str, Any]]
) -> None:
    assert isinstance(asked(engine, *messages), Prepared | Refused)


@asynccontextmanager
async def answering(url: str, engine: BatchEngine) -> AsyncIterator[asyncio.Task[None]]:
    redis = connect(url)
    one = Preparing(redis, {"m": engine}, prefill_chunk_tokens=128)
    task = asyncio.create_task(one.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await redis.aclose()


async def put(redis: Redis, text: str) -> None:
    await redis.rpush(keys.prepare("m"), text)  # type: ignore[misc]
    await redis.expire(keys.prepare("m"), QUESTION_TTL_S)


async def taken(redis: Redis, node: str) -> Answer:
    _, text = await redis.blpop([keys.inbox(node)], LIMIT_S)  # type: ignore[misc]
    return Answer.from_json(text)


async def test_many_nodes_ask_at_once_and_each_gets_its_own_answers(
    redis_url: str, redis: Redis, engine: BatchEngine
) -> None:
    async with answering(redis_url, engine), answering(redis_url, engine):
        for number in range(30):
            messages = ({"role": "user", "content": "x" * (number % 5)},)
            await put(redis, Question(f"q{number}", f"n{number % 3}", "m", messages).to_json())
        answers = {
            node: [await taken(redis, node) for _ in range(10)] for node in ("n0", "n1", "n2")
        }
    for index, node in enumerate(("n0", "n1", "n2")):
        found = {answer.id: answer.result for answer in answers[node]}
        assert set(found) == {f"q{number}" for number in range(index, 30, 3)}
        for number in range(index, 30, 3):
            tokens = engine.prompt_tokens([{"role": "user", "content": "x" * (number % 5)}])
            assert getattr(found[f"q{number}"], "prompt", None) == tuple(tokens)


async def test_an_answer_that_nobody_takes_expires(
    redis_url: str, redis: Redis, engine: BatchEngine
) -> None:
    async with answering(redis_url, engine):
        await put(redis, Question("q", "gone", "m", HELLO).to_json())
        await put(redis, Question("q", "n", "m", HELLO).to_json())
        await taken(redis, "n")  # questions of one model are answered in order
        assert 0 < await redis.ttl(keys.inbox("gone")) <= QUESTION_TTL_S


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"id":"q","node":"n","model":"m"}'])
async def test_a_question_that_cannot_be_read_ends_no_worker(
    redis_url: str, redis: Redis, engine: BatchEngine, text: str
) -> None:
    async with answering(redis_url, engine) as task:
        await put(redis, text)
        await put(redis, Question("q", "n", "m", HELLO).to_json())
        waiting = asyncio.ensure_future(taken(redis, "n"))
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        is_over = task.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert not is_over


async def test_it_answers_again_after_redis_was_away(
    redis_url: str, redis: Redis, engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "RETRY_S", 0.01)
    async with answering(redis_url, engine):
        for number in range(3):
            await put(redis, Question(f"q{number}", "n", "m", HELLO).to_json())
            assert (await taken(redis, "n")).id == f"q{number}"
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_one_wait_is_shorter_than_the_clients_patience() -> None:
    assert preparing.WAIT_S < SOCKET_TIMEOUT_S
