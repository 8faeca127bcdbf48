"""Question and answer: both versions of a process understand each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.prepare import Answer, Prepared, Question, Refused

BIASES = ((3, None), ("\u6f22", 0.5))
PREPARED = Prepared((1, 2**32 - 1), 128, "aa", BIASES)
REFUSED = Refused("context", "too long", prompt_tokens=9, context_tokens=8)


def test_a_question_comes_back() -> None:
    question = Question("q", "node", "m", ({"role": "user", "content": "\u6f22\ud800"},), BIASES)
    assert Question.from_json(question.to_json().encode()) == question


def test_a_question_of_a_newer_version_is_read() -> None:
    raw = json.loads(Question("q", "n", "m", ()).to_json())
    assert Question.from_json(json.dumps({**raw, "colour": 1})) == Question("q", "n", "m", ())


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_a_prepared_prompt_comes_back(prompt: list[int]) -> None:
    answer = Answer("q", Prepared(tuple(prompt), 128, "aa"))
    assert Answer.from_json(answer.to_json()) == answer


def test_a_refusal_comes_back() -> None:
    answer = Answer("q", Refused("invalid", "no", param="messages"))
    assert Answer.from_json(answer.to_json().encode()) == answer


@pytest.mark.parametrize("result", [PREPARED, REFUSED])
def test_an_answer_of_a_newer_version_is_read(result: Prepared | Refused) -> None:
    raw = json.loads(Answer("q", result).to_json())
    raw["colour"] = 1
    raw.get("prepared", raw.get("refused"))["colour"] = 1
    assert Answer.from_json(json.dumps(raw)) == Answer("q", result)


def test_what_an_older_version_does_not_write_of_biases_is_none() -> None:
    question, answer = (
        json.loads(Question("q", "n", "m", ()).to_json()),
        json.loads(Answer("q", Prepared((1,), 128)).to_json()),
    )
    del question["logit_bias"], answer["prepared"]["logit_bias"]
    assert Question.from_json(json.dumps(question)).logit_bias == ()
    assert Answer.from_json(json.dumps(answer)).result == Prepared((1,), 128)
