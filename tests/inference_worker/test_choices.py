"""Several answers in one log: what each is fed, and how a takeover finds them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from inference_worker.choices import Choice, Stage, choices_of, last_flags
from inference_worker.engine import Finish, FinishReason
from inference_worker.rendering.parts import Progress
from replay.records import TOKEN_CUT, TOKEN_FORCED, TOKEN_LAST, Chunk, SessionRecord, Token
from replay.request import SEED_MAX, GenerationRequest, RenderOptions, SamplingParams

STOP, LENGTH = Finish(FinishReason.STOP), Finish(FinishReason.LENGTH)


class Vocabulary:
    """Each token is a letter."""

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def spelling(self, token: int) -> bytes:
        return f"<{token}>".encode()


def choices(
    *tokens: Token, dialect: Any = "openai.chat", seed: int = 7, **more: Any
) -> list[Choice]:
    record = SessionRecord(
        "t", "c", "c", "m", 1, dialect=dialect, prompt=(1, 2, 3, 4, 5), prompt_token_count=5
    )
    options = RenderOptions(include_usage=True)
    request = GenerationRequest(dialect, "m", (), SamplingParams(seed=seed), render=options, **more)
    engine: Any = Vocabulary()
    return choices_of(engine, record, request, tokens)


def test_each_answer_is_a_sequence_with_a_seed_of_its_own() -> None:
    found = [one.spec for one in choices(n=3, seed=SEED_MAX)]
    assert [spec.id for spec in found] == ["t/c/m/1", "t/c/m/1 1", "t/c/m/1 2"]
    assert [spec.sampling.seed for spec in found] == [SEED_MAX, 0, 1]
    assert {spec.prompt for spec in found} == {(1, 2, 3, 4, 5)}


def test_each_prompt_has_its_tokens_and_the_same_seeds() -> None:
    found = choices(dialect="openai.completions", n=2, prompts=("a", "b"), prompt_lengths=(2, 3))
    assert [one.spec.prompt for one in found] == [(1, 2), (1, 2), (3, 4, 5), (3, 4, 5)]
    assert [one.spec.sampling.seed for one in found] == [7, 8, 7, 8]


def test_the_log_says_whose_each_token_is_and_who_has_ended() -> None:
    tokens = [
        Token(97, 0),
        Token(98, 1, TOKEN_FORCED),
        Token(99, 1, last_flags(LENGTH)),
        Token(100, 0),
        Token(101, 2, last_flags(STOP)),
    ]
    first, second, third = choices(*tokens, n=3)
    assert [one.spec.sampled for one in (first, second, third)] == [(97, 100), (98, 99), (101,)]
    assert [one.spec.forced for one in (first, second, third)] == [frozenset(), {0}, frozenset()]
    assert [one.tokens for one in (first, second, third)] == [2, 2, 1]
    assert [one.stage for one in (first, second, third)] == [
        Stage.WAITING,
        Stage.OVER,
        Stage.OVER,
    ]
    assert (second.is_cut, third.is_cut) == (True, False)


@pytest.mark.parametrize(
    ("finish", "flags"), [(STOP, TOKEN_LAST), (LENGTH, TOKEN_LAST | TOKEN_CUT)]
)
def test_how_an_answer_ended_is_a_flag(finish: Finish, flags: int) -> None:
    assert last_flags(finish) == flags


@pytest.mark.parametrize("dialect", ["openai.chat", "openai.completions"])
def test_only_the_last_to_end_tells_the_usage_of_all(dialect: str) -> None:
    [first, second] = choices(Token(97), Token(98, 1, TOKEN_LAST), dialect=dialect, n=2)
    body = first.renderer.step("x", tokens=2, timings=None)
    body += first.renderer.finish(STOP, tokens=2, timings=None)
    assert b'"completion_tokens":3,"prompt_tokens":5' in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert second.renderer is not first.renderer
    [one, other] = choices(dialect=dialect, n=2)
    body = one.renderer.finish(STOP, tokens=1, timings=None)
    assert b"usage" not in body and b"[DONE]" not in body
    assert b'"index":1' in other.renderer.step("x", tokens=1, timings=None)


@pytest.mark.parametrize("dialect", ["openai.responses", "openai.chat", "llama.completion"])
def test_what_was_told_of_a_prompt_is_not_begun_again(dialect: Any) -> None:
    record = SessionRecord("t", "c", "c", "m", 1, dialect=dialect, attempt=1)
    render = RenderOptions(return_progress=True)
    request = GenerationRequest(
        dialect, "m", (), SamplingParams(seed=7), render=render, prompts=("a",)
    )
    engine: Any = Vocabulary()
    [first] = choices_of(engine, record, request, ())
    told = first.renderer.progress(Progress(total=9, cache=0, processed=0, time_ms=1))
    rest = first.renderer.step("a", tokens=1, timings=None, ids=(97,))
    taken = replace(record, attempt=2)
    [second] = choices_of(engine, taken, request, (), [Chunk(len(told), told)])
    assert second.renderer.step("a", tokens=1, timings=None, ids=(97,)) == rest
    [third] = choices_of(engine, taken, request, (), [Chunk(3, b":\n\n")])
    assert third.renderer.step("a", tokens=1, timings=None, ids=(97,)).startswith(
        rest if dialect != "openai.responses" else b"event: response.created"
    )


def test_a_native_answer_is_told_of_its_own_prompt() -> None:
    found = choices(dialect="llama.completion", n=1, prompts=("ab", "cde"), prompt_lengths=(2, 3))
    body = found[1].renderer.finish(STOP, tokens=1, timings=None)
    event = json.loads(body.removeprefix(b"data: "))
    assert (event["index"], event["prompt"], event["tokens_evaluated"]) == (1, "cde", 3)
