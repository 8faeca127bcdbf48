"""Prepare at the worker: every question gets an answer, and none can end the worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from inference_worker import preparing
from inference_worker.batch_loop import BatchEngine
from inference_worker.engine import EngineFailed
from inference_worker.grammar.gbnf import read
from inference_worker.grammar.matcher import EMPTY, Matcher
from inference_worker.preparing import Preparing, result_of
from inference_worker.scripted_engine import BOS, END, SILENT, ScriptedModel, open_scripted_engine
from inference_worker.tools import SYNTAXES
from replay import keys
from replay.prepare import (
    QUESTION_TTL_S,
    Answer,
    Asked,
    Chat,
    Completion,
    Detokenize,
    Prepared,
    Question,
    Refused,
    Render,
    Text,
    Tokenize,
    Tokenized,
    Unknown,
)
from replay.redis_connections import SOCKET_TIMEOUT_S
from replay.redis_plane import connect
from replay.request import AnswerFormat, ChatOptions, Constraint, LogitBias, Prompt

pytestmark = pytest.mark.anyio
LIMIT_S = 10.0
HELLO = ({"role": "user", "content": "hello"},)


@pytest.fixture(scope="module")
def engine() -> Iterator[BatchEngine]:
    one = open_scripted_engine(name="m", context_tokens=64)
    yield one
    one.close()


def asked(engine: BatchEngine, *messages: Any) -> Any:
    return told(engine, Chat(messages))


def told(engine: BatchEngine, question: Asked) -> Any:
    return result_of(engine, question)


def test_a_prompt_is_answered_with_its_tokens_and_how_they_are_fed(engine: BatchEngine) -> None:
    found = asked(engine, *HELLO)
    prompt, sha256 = tuple(engine.prompt_tokens(HELLO)), engine.model.sha256 or ""
    end = tuple(engine.tokenize("</think>", add_special=False, parse_special=True))
    form = AnswerFormat("<think>", "</think>", thought_closing=end, end_tokens=(END,))
    lengths = (len(prompt),)
    assert found == Prepared(prompt, 128, sha256, format=form, prompt_lengths=lengths)


def test_prompts_without_a_template_are_tokens_one_after_the_other(engine: BatchEngine) -> None:
    found = told(engine, Completion(("a<|end|>", (98, "c<|silent|>"), ("d", 101))))
    assert isinstance(found, Prepared)
    assert found.prompt == (BOS, 97, END, 98, 99, SILENT, BOS, 100, 101)
    assert found.prompt_lengths == (3, 3, 3)
    assert found.prompts == ("<|bos|>a<|end|>", "bc<|silent|>", "<|bos|>de")


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        ((1, 10**6), "invalid", "there is no token 1000000"),
        ((), "invalid", "empty"),
        ("x" * 64, "context", "request (65 tokens) exceeds"),
    ],
)
def test_a_prompt_that_cannot_be_gone_on_from_is_refused(
    engine: BatchEngine, prompt: Prompt, kind: str, message: str
) -> None:
    found = told(engine, Completion(("fine", prompt)))
    assert isinstance(found, Refused)
    assert (found.kind, message in found.message) == (kind, True)
    assert found.param == ("prompt" if kind == "invalid" else "")


def test_the_answers_format_says_where_a_thought_is_open_and_how_it_is_ended(
    engine: BatchEngine,
) -> None:
    options = ChatOptions(template_kwargs={"opens_thought": True})
    found = told(engine, Chat(HELLO, (), options, "So:<|end|>"))
    assert isinstance(found, Prepared)
    assert (found.format.is_thought_open, found.format.is_thought_begun) == (True, False)
    # A client's message never becomes a special token.
    closing = b"".join(map(engine.piece, found.format.thought_closing))
    assert closing == b"So:<|end|></think>"


def test_a_model_that_does_not_think_has_no_tags() -> None:
    engine = open_scripted_engine(chat_template="{{ messages[0].content }}")
    found = asked(engine, *HELLO)
    assert isinstance(found, Prepared) and found.format == AnswerFormat(end_tokens=(END,))


@pytest.mark.parametrize("shifts", [True, False])
def test_where_the_context_shifts_is_told_where_it_does(shifts: bool) -> None:
    model = ScriptedModel(replace(open_scripted_engine().model, shifts_context=shifts))
    found = asked(BatchEngine(model), *HELLO)
    assert isinstance(found, Prepared)
    assert found.shift_at == (model.info.context_tokens if shifts else 0)


def test_a_bias_on_a_text_is_one_on_each_of_its_tokens(engine: BatchEngine) -> None:
    biases: tuple[LogitBias, ...] = (("ab", None), (3, 0.5))
    found = told(engine, Chat(HELLO, biases))
    assert isinstance(found, Prepared)
    assert found.logit_bias == ((ord("a"), None), (ord("b"), None), (3, 0.5))


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_bias_on_a_token_that_there_is_not_is_refused(engine: BatchEngine, token: int) -> None:
    found = told(engine, Chat(HELLO, ((token, 1.0),)))
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
    def fail(*asked: Any) -> list[int]:
        raise EngineFailed("broken")

    monkeypatch.setattr(engine, "prompt_tokens", fail)
    assert asked(engine, *HELLO) == Refused("engine", "broken")


def test_a_template_that_shows_nothing_is_refused(
    engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "prompt_tokens", lambda *asked: [])
    found = asked(engine, *HELLO)
    assert isinstance(found, Refused)
    assert found.kind == "invalid"


def test_a_prompts_text_is_what_its_tokens_are_made_of(engine: BatchEngine) -> None:
    found = told(engine, Render(HELLO))
    tokens = told(engine, Tokenize(found.text, parse_special=True)).tokens
    assert tokens == tuple(engine.prompt_tokens(HELLO))


def test_messages_that_cannot_be_rendered_are_refused_as_a_prompt_is(engine: BatchEngine) -> None:
    broken = ({"role": "user", "content": [{"type": "image_url"}]},)
    assert told(engine, Render(broken)) == told(engine, Chat(broken))


@given(text=st.text(), parse_special=st.booleans(), with_pieces=st.booleans())
def test_any_text_comes_back_from_its_tokens(
    engine: BatchEngine, text: str, parse_special: bool, with_pieces: bool
) -> None:
    asked = Tokenize(text, parse_special=parse_special, with_pieces=with_pieces)
    found = told(engine, asked)
    assert told(engine, Detokenize(found.tokens)) == Text(text)
    raw = [one.encode() if isinstance(one, str) else bytes(one) for one in found.pieces]
    assert b"".join(raw) == (text.encode() if with_pieces else b"")


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        (Tokenize("a<|end|>"), (97, END)),
        (Tokenize("a<|end|>", add_special=True), (BOS, 97, END)),
        (Tokenize("<", parse_special=False), (60,)),
        (Tokenize(""), ()),
        (Tokenize("", add_special=True), (BOS,)),
    ],
)
def test_special_tokens_are_added_and_recognised_as_asked(
    engine: BatchEngine, asked: Tokenize, tokens: tuple[int, ...]
) -> None:
    assert told(engine, asked) == Tokenized(tokens)


def test_the_pieces_of_a_split_code_point_are_bytes(engine: BatchEngine) -> None:
    found = told(engine, Tokenize("\u00e9<|end|>", with_pieces=True))
    assert found.pieces == ([0xC3], [0xA9], "<|end|>")


def test_half_a_code_point_is_shown_as_the_replacement_character(engine: BatchEngine) -> None:
    assert told(engine, Detokenize((97, 0xC3))) == Text("a\ufffd")


def test_a_token_that_the_model_does_not_have_is_refused_by_its_place(engine: BatchEngine) -> None:
    last = engine.model.vocabulary_tokens - 1
    assert isinstance(told(engine, Detokenize((last,))), Text)
    found = told(engine, Detokenize((0, last + 1)))
    assert (found.kind, found.param) == ("invalid", "tokens[1]")
    assert str(last) in found.message


def test_a_question_of_a_newer_version_is_refused(engine: BatchEngine) -> None:
    found = told(engine, Unknown("paint"))
    assert (found.kind, "paint" in found.message) == ("unknown", True)


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
    one = Preparing(redis, {"m": engine}, result_of)
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


async def test_a_worker_that_is_told_to_end_leaves_its_question_to_another(
    redis_url: str, redis: Redis, engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def tokenize(text: str, **how: bool) -> list[int]:
        began.set()
        goes_on.wait(LIMIT_S)
        return [1]

    with monkeypatch.context() as patched:
        patched.setattr(engine, "tokenize", tokenize)
        async with answering(redis_url, engine):
            await put(redis, Question("q", "n", "m", Tokenize("a")).to_json())
            await asyncio.to_thread(began.wait, LIMIT_S)
        goes_on.set()
    async with answering(redis_url, engine):
        assert (await taken(redis, "n")).result == Tokenized((ord("a"),))


async def test_many_nodes_ask_at_once_and_each_gets_its_own_answers(
    redis_url: str, redis: Redis, engine: BatchEngine
) -> None:
    async with answering(redis_url, engine), answering(redis_url, engine):
        for number in range(30):
            messages = ({"role": "user", "content": "x" * (number % 5)},)
            await put(
                redis, Question(f"q{number}", f"n{number % 3}", "m", Chat(messages)).to_json()
            )
        answers = {
            node: [await taken(redis, node) for _ in range(10)] for node in ("n0", "n1", "n2")
        }
    for index, node in enumerate(("n0", "n1", "n2")):
        found = {answer.id: answer.result for answer in answers[node]}
        assert set(found) == {f"q{number}" for number in range(index, 30, 3)}
        for number in range(index, 30, 3):
            tokens = engine.prompt_tokens([{"role": "user", "content": "x" * (number % 5)}])
            assert getattr(found[f"q{number}"], "prompt", None) == tuple(tokens)


async def test_a_question_of_a_newer_version_gets_an_answer(
    redis_url: str, redis: Redis, engine: BatchEngine
) -> None:
    async with answering(redis_url, engine):
        await put(redis, '{"id":"q","node":"n","model":"m","kind":"paint","texts":["a"]}')
        found = await taken(redis, "n")
    assert isinstance(found.result, Refused) and found.result.kind == "unknown"


async def test_an_answer_that_nobody_takes_expires(
    redis_url: str, redis: Redis, engine: BatchEngine
) -> None:
    async with answering(redis_url, engine):
        await put(redis, Question("q", "gone", "m", Chat(HELLO)).to_json())
        await put(redis, Question("q", "n", "m", Chat(HELLO)).to_json())
        await taken(redis, "n")  # questions of one model are answered in order
        assert 0 < await redis.ttl(keys.inbox("gone")) <= QUESTION_TTL_S


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"id":"q","node":"n","model":"m"}'])
async def test_a_question_that_cannot_be_read_ends_no_worker(
    redis_url: str, redis: Redis, engine: BatchEngine, text: str
) -> None:
    async with answering(redis_url, engine) as task:
        await put(redis, text)
        await put(redis, Question("q", "n", "m", Chat(HELLO)).to_json())
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
            await put(redis, Question(f"q{number}", "n", "m", Chat(HELLO)).to_json())
            assert (await taken(redis, "n")).id == f"q{number}"
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_one_wait_is_shorter_than_the_clients_patience() -> None:
    assert preparing.WAIT_S < SOCKET_TIMEOUT_S


def test_how_calls_will_be_written_is_told_where_there_are_tools(engine: BatchEngine) -> None:
    options = ChatOptions(tools=({"type": "function", "function": {"name": "add"}},))
    roomy = open_scripted_engine(name="m")
    try:
        found = told(roomy, Chat(HELLO, options=options))
        assert isinstance(found, Prepared) and found.format.tools == "generic"
        assert told(engine, Chat(HELLO)).format.tools == ""
    finally:
        roomy.close()


def test_special_tokens_of_a_syntax_are_seen() -> None:
    template = "{{ tools | tojson }}[TOOL_CALLS]" + "<|silent|>"
    engine = open_scripted_engine(name="m", chat_template=template)
    syntax = replace(SYNTAXES[0], shown=("[TOOL_CALLS]", "<|silent|>"))
    try:
        found = preparing.shown_tokens(engine, syntax)
    finally:
        engine.close()
    assert found == {SILENT}


ADD = {"type": "function", "function": {"name": "add"}}
ODD = {"type": "function", "function": {"name": "odd", "parameters": {"type": "hiccup"}}}
SCHEMA = Constraint("response_format", "json_schema", '{"type": "integer"}')


@pytest.fixture(scope="module")
def hermes() -> Iterator[BatchEngine]:
    one = open_scripted_engine(name="m", chat_template="{{ tools }}{{ messages }}<tool_call>")
    yield one
    one.close()


def test_calls_have_a_grammar_from_where_they_begin(hermes: BatchEngine) -> None:
    found = told(hermes, Chat(HELLO, options=ChatOptions(tools=(ADD,))))
    assert (found.format.tools, found.grammar_triggers) == ("hermes", ("<tool_call>",))
    must = told(hermes, Chat(HELLO, options=ChatOptions(tools=(ADD,), tool_choice="required")))
    assert must.grammar and must.grammar_triggers == ()
    assert told(hermes, Chat(HELLO)).grammar == ""


def test_a_schema_holds_beside_calls_and_without_them(hermes: BatchEngine) -> None:
    alone = told(hermes, Chat(HELLO, constraint=SCHEMA)).grammar
    beside = told(hermes, Chat(HELLO, options=ChatOptions(tools=(ADD,)), constraint=SCHEMA))
    assert "tool_call" not in alone
    assert "tool_call" in beside.grammar and beside.grammar_triggers == ()


CALLED = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'


def begun_with(content: str) -> tuple[dict[str, str], ...]:
    return (*HELLO, {"role": "assistant", "content": content})


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("before", ["", "Well, <tool_call> "])
@pytest.mark.parametrize("cut", range(len("<tool_call>"), len(CALLED) + 1, 3))
def test_a_call_that_the_client_began_is_gone_on_with(
    hermes: BatchEngine, choice: Any, before: str, cut: int
) -> None:
    options = ChatOptions(tools=(ADD,), tool_choice=choice)
    found = told(hermes, Chat(begun_with(before + CALLED[:cut]), options=options))
    assert (found.format.begun, found.grammar_triggers) == (CALLED[:cut], ())
    matcher = Matcher(read(found.grammar))
    assert EMPTY in matcher.after_text(CALLED[cut:])
    assert not matcher.is_begun_by("?")


@pytest.mark.parametrize("content", ["Well,", "<tool_call>{}", f"{CALLED} Well,"])
def test_another_beginning_changes_nothing_of_the_grammar(
    hermes: BatchEngine, content: str
) -> None:
    options = ChatOptions(tools=(ADD,))
    found = told(hermes, Chat(begun_with(content), options=options))
    plain = told(hermes, Chat(HELLO, options=options))
    assert (found.format.begun, found.grammar) == ("", plain.grammar)
    assert found.grammar_triggers == plain.grammar_triggers


def test_json_that_the_client_began_is_gone_on_with(hermes: BatchEngine) -> None:
    found = told(hermes, Chat(begun_with("4"), constraint=SCHEMA))
    assert found.format.begun == ""
    matcher = Matcher(read(found.grammar))
    assert EMPTY in matcher.after_text("") and EMPTY in matcher.after_text("2")
    assert not matcher.is_begun_by("-")


def test_a_beginning_that_says_a_tag_very_often_is_read_in_no_time(hermes: BatchEngine) -> None:
    often = "<tool_call>" * 300
    found = told(hermes, Chat(begun_with(often), options=ChatOptions(tools=(ADD,))))
    assert found.format.begun == "<tool_call>"


def test_before_json_a_model_that_thinks_may_think() -> None:
    engine = open_scripted_engine(name="m", chat_template="{{ messages }}<think></think>")
    try:
        found = told(engine, Chat(HELLO, constraint=SCHEMA))
    finally:
        engine.close()
    matcher = Matcher(read(found.grammar))
    assert matcher.is_begun_by("<think>Hm.</think>\n7") and matcher.is_begun_by("7")
    assert not matcher.is_begun_by("Hm.")


GRAMMAR = """root ::= "root" space [root"]{2,3} # root
space ::= (" " | "\\"") root?
"""


@pytest.mark.parametrize(("turn", "begins"), [("", 'root "oo'), ("<think>", "Hm.</think>root oo")])
def test_a_clients_grammar_holds_behind_an_open_thought(turn: str, begins: str) -> None:
    template = "{{ messages }}</think>" + turn
    engine = open_scripted_engine(name="m", chat_template=template)
    constraint = Constraint("grammar", "grammar", GRAMMAR)
    try:
        found = told(engine, Chat(HELLO, constraint=constraint))
    finally:
        engine.close()
    matcher = Matcher(read(found.grammar))
    assert matcher.is_begun_by(begins)
    assert matcher.is_begun_by("Hm.") == bool(turn)
    assert (found.grammar == GRAMMAR) == (not turn)


@pytest.mark.parametrize(
    ("question", "field"),
    [
        (Chat(HELLO, options=ChatOptions(tools=(ODD,))), "tools"),
        (Chat(HELLO, constraint=replace(SCHEMA, text='{"type": "hiccup"}')), "response_format"),
        (
            Chat(
                HELLO,
                options=ChatOptions(tools=(ADD,)),
                constraint=replace(SCHEMA, text='{"type": "hiccup"}'),
            ),
            "response_format",
        ),
    ],
)
def test_a_schema_that_cannot_be_compiled_names_its_field(
    hermes: BatchEngine, question: Chat, field: str
) -> None:
    found = told(hermes, question)
    assert isinstance(found, Refused) and (found.kind, found.param) == ("invalid", field)
