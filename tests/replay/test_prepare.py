"""Question and answer: both versions of a process understand each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.prepare import (
    Answer,
    Asked,
    Chat,
    Detokenize,
    Embed,
    Embedded,
    Prepared,
    Question,
    Refused,
    Render,
    Rerank,
    Result,
    Text,
    Tokenize,
    Tokenized,
    Unknown,
)
from replay.request import AnswerFormat, ChatOptions
from replay.slot_order import SlotChanged, SlotOrder

HELLO = ({"role": "user", "content": "\u6f22\ud800", "colours": [1, [2]]},)
BIASES = ((3, None), ("\u6f22", 0.5))
OPTIONS = ChatOptions(
    tools=({"type": "function", "function": {"name": "f"}},),
    tool_choice="required",
    parallel_tool_calls=False,
    template_kwargs={"mood": [1, None]},
    add_generation_prompt=False,
)
ASKED = [
    Chat(HELLO),
    Chat(HELLO, BIASES),
    Chat(HELLO, options=OPTIONS),
    Render(HELLO),
    Render(HELLO, OPTIONS),
    Tokenize("\u6f22\ud800", add_special=True, parse_special=False, with_pieces=True),
    Detokenize((0, 2**32 - 1)),
    Embed(("\u6f22\ud800", (1, "a", 2)), normalize=-1, dimensions=3, single=True),
    Rerank("\u6f22\ud800", ("a", "b")),
    SlotOrder("w", 3, "save", "\u6f22"),
]
FORMAT = AnswerFormat("<t>", "</t>", True, True, (1, 2), "hermes", (3,))
RESULTS = [
    Prepared((1, 2**32 - 1), 128, "aa", BIASES, FORMAT),
    Tokenized((1, 2**32 - 1), ("\u6f22", [0xC3])),
    Text("\u6f22"),
    Embedded(("AACAPw==", "AAAAQA=="), 1, 7),
    SlotChanged(256, 2**40, 0.5),
    Refused("context", "too long", prompt_tokens=9, context_tokens=8),
]


@pytest.mark.parametrize("asked", ASKED)
def test_a_question_comes_back(asked: Asked) -> None:
    question = Question("q", "node", "m", asked)
    assert Question.from_json(question.to_json().encode()) == question


@pytest.mark.parametrize("asked", ASKED)
def test_a_question_of_a_newer_version_is_read(asked: Asked) -> None:
    question = Question("q", "n", "m", asked)
    raw = json.loads(question.to_json())
    assert Question.from_json(json.dumps({**raw, "colour": 1})) == question


def test_a_question_of_an_older_version_is_a_chat() -> None:
    raw = {"id": "q", "node": "n", "model": "m", "messages": list(HELLO)}
    assert Question.from_json(json.dumps(raw)) == Question("q", "n", "m", Chat(HELLO))


@pytest.mark.parametrize("kind", ["paint", 7, ""])
def test_an_unknown_kind_of_question_says_where_its_refusal_goes(kind: object) -> None:
    raw = {"id": "q", "node": "n", "model": "m", "kind": kind, "texts": ["a"]}
    assert Question.from_json(json.dumps(raw)) == Question("q", "n", "m", Unknown(str(kind)))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_a_prepared_prompt_comes_back(prompt: list[int]) -> None:
    answer = Answer("q", Prepared(tuple(prompt), 128, "aa"))
    assert Answer.from_json(answer.to_json()) == answer


@pytest.mark.parametrize("result", RESULTS)
def test_an_answer_comes_back(result: Result) -> None:
    answer = Answer("q", result)
    assert Answer.from_json(answer.to_json().encode()) == answer


@pytest.mark.parametrize("result", RESULTS)
def test_an_answer_of_a_newer_version_is_read(result: Result) -> None:
    raw = json.loads(Answer("q", result).to_json())
    [name] = raw.keys() - {"id"}
    raw = {**raw, "colour": 1, name: {**raw[name], "colour": 1}}
    assert Answer.from_json(json.dumps(raw)) == Answer("q", result)


def test_what_an_older_version_does_not_write_of_biases_is_none() -> None:
    raw = json.loads(Answer("q", Prepared((1,), 128)).to_json())
    del raw["prepared"]["logit_bias"]
    assert Answer.from_json(json.dumps(raw)).result == Prepared((1,), 128)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"id":"q"}', '{"id":"q","embedded":{}}', '"x"', '{"id":"q","text":[]}']
)
def test_what_is_no_answer_is_an_error_that_the_inbox_knows(text: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Answer.from_json(text)
