"""OpenAI's text completions: bodies to requests, and logs to answers."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.openai_completions import COMPLETIONS, parse
from api.problems import RequestInvalid
from replay import frames
from replay.request import GenerationRequest, RenderOptions


def parsed(**body: Any) -> GenerationRequest:
    return parse({"prompt": "Once", **body}, random_seed=1)


def test_a_bare_request_gets_the_defaults() -> None:
    request = parsed()
    assert (request.dialect, request.messages, request.prompts) == (
        "openai.completions",
        (),
        ("Once",),
    )
    assert (request.render, request.max_tokens) == (RenderOptions(stream=False), -1)
    assert GenerationRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, (False, 0)),
        ({"logprobs": 0}, (True, 0)),
        ({"logprobs": 3}, (True, 3)),
        ({"n_probs": 2}, (True, 2)),
        ({"n_probs": 2, "logprobs": 1}, (True, 1)),
    ],
)
def test_logprobs_is_how_many_are_told(body: dict[str, Any], told: tuple[bool, int]) -> None:
    sampling = parsed(**body).sampling
    assert (sampling.logprobs, sampling.n_probs) == told


@pytest.mark.parametrize(
    ("field", "value"),
    [("echo", True), ("suffix", "end"), ("best_of", 2), ("logprobs", True), ("logprobs", 101)],
)
def test_what_is_not_done_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestInvalid, match=f"^Field '{field}'"):
        parsed(**{field: value})


def test_what_asks_for_nothing_is_let_through() -> None:
    assert parsed(echo=False, suffix=None, best_of=1, user="x") == parsed()


def test_a_folded_stream_is_the_answer() -> None:
    fold = COMPLETIONS.fold(parsed())
    base = {"created": 1, "id": "cmpl-1", "model": "m", "system_fingerprint": "b1"}

    def chunk(text: str, reason: str | None, logprobs: Any, **more: Any) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}
        return frames.data({"choices": [choice], **base, "object": "text_completion", **more})

    usage, timings = {"total_tokens": 3}, {"predicted_n": 2}
    fold.feed(chunk("Hel", None, {"tokens": ["Hel"]}) + frames.PING)
    fold.feed(chunk("lo", None, {"tokens": ["l", "o"]}))
    fold.feed(chunk("", "stop", None, usage=usage, timings=timings) + frames.DONE)
    answer = fold.answer()
    assert list(answer) == [
        "choices",
        "created",
        "model",
        "system_fingerprint",
        "object",
        "usage",
        "id",
        "timings",
    ]
    assert answer["choices"] == [
        {
            "text": "Hello",
            "index": 0,
            "logprobs": {"tokens": ["Hel", "l", "o"]},
            "finish_reason": "stop",
        }
    ]
    assert (answer["usage"], answer["timings"]) == (usage, timings)
