"""A text with a hole becomes a prompt, where the model knows how to fill one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from inference_worker.engine import Engine, FimTokens
from inference_worker.infill import SNIPPET, infill_tokens, missing_tokens
from inference_worker.preparing import result_of
from inference_worker.scripted_engine import BOS, open_scripted_engine
from replay.prepare import Answer, Completion, Prepared, Question, Refused
from replay.request import GenerationRequest, Infill, SamplingParams

HOLE = Infill("ab", "cd", prompt="x")
FIM = FimTokens(prefix=300, suffix=301, middle=302)


class Filling:
    """The scripted engine as a model that was made for it."""

    def __init__(self, engine: Engine, fim: FimTokens) -> None:
        self._engine = engine
        self.model = replace(engine.model, fim=fim)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@pytest.fixture(scope="module")
def plain() -> Iterator[Engine]:
    one = open_scripted_engine(name="m", context_tokens=256)
    yield one
    one.close()


def filling(plain: Engine, fim: FimTokens = FIM) -> Engine:
    return cast("Engine", Filling(plain, fim))


def test_the_hole_is_between_its_prefix_and_its_suffix(plain: Engine) -> None:
    tokens = infill_tokens(filling(plain), HOLE)
    assert tokens == [BOS, 300, *b"abx", 301, *b"cd", 302]


def test_further_files_stand_before_it(plain: Engine) -> None:
    asked = replace(HOLE, extra=(("f", "F"), ("g", "G")))

    def spelled(fim: FimTokens) -> list[int]:
        return infill_tokens(filling(plain, fim), asked)[1:-8]

    def encoded(text: str) -> list[int]:
        return plain.tokenize(text, add_special=False, parse_special=False)

    snippet = encoded(SNIPPET)
    assert spelled(FIM) == [*snippet, *encoded("F"), *snippet, *encoded("G")]
    named = [303, *encoded("f\n"), *encoded("F"), 303, *encoded("g\n"), *encoded("G")]
    assert spelled(replace(FIM, separator=303)) == [*named, 303, *encoded("filename\n")]
    repository = spelled(replace(FIM, repository=304))
    assert repository[:2] == [304, *encoded("myproject\n")][:2]


def test_a_model_says_what_it_lacks(plain: Engine) -> None:
    assert missing_tokens(FIM) == ""
    assert missing_tokens(replace(FIM, suffix=-1)) == (
        "Infill is not supported by this model: suffix token is missing. "
    )
    refused = result_of(plain, Completion((), infill=HOLE))
    assert isinstance(refused, Refused)
    assert refused.kind == "unsupported"
    assert "prefix token is missing. suffix token is missing. middle" in refused.message


def test_it_is_prepared_like_any_prompt(plain: Engine) -> None:
    fim = FimTokens(prefix=1, suffix=2, middle=3)
    question = Question("q", "n", "m", Completion((), infill=replace(HOLE, extra=(("f", "F"),))))
    read = Question.from_json(question.to_json())
    assert read == question
    found = result_of(filling(plain, fim), read.asked)
    assert isinstance(found, Prepared)
    assert found.prompt[-1] == 3
    assert found.prompts[0].endswith("\x02cd\x03")
    assert Answer.from_json(Answer("q", found).to_json()).result == found


def test_a_record_keeps_it() -> None:
    request = GenerationRequest(
        "llama.completion",
        "m",
        (),
        SamplingParams(seed=1),
        infill=replace(HOLE, extra=(("f", "F"),)),
    )
    assert GenerationRequest.from_json(request.to_json()) == request
