"""llama.cpp's own completion: bodies to requests, and logs to answers."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.llama_completion import NATIVE, parse
from api.problems import RequestInvalid
from replay import frames
from replay.request import GenerationRequest

LAST = {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": "eos"}


def parsed(**body: Any) -> GenerationRequest:
    return parse({"prompt": "Once", **body}, random_seed=1)


def folded(*events: dict[str, Any], **body: Any) -> Any:
    fold = NATIVE.fold(parsed(**body))
    for event in events:
        fold.feed(frames.data(event))
    return fold.answer()


def partial(text: str, *tokens: int, **more: Any) -> dict[str, Any]:
    return {"index": 0, "content": text, "tokens": list(tokens), "stop": False, **more}


def test_what_is_asked_of_the_answer_is_kept() -> None:
    request = parsed(stream=True, return_tokens=True, response_fields=["content", "a/b"])
    assert request.render.return_tokens
    assert request.render.response_fields == ("content", "a/b")
    assert GenerationRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize("value", ["content", [1], ["x"] * 257])
def test_response_fields_are_names(value: Any) -> None:
    with pytest.raises(RequestInvalid, match=r"^Field 'response_fields'"):
        parsed(response_fields=value)


@pytest.mark.parametrize("name", ["n_probs", "logprobs"])
def test_both_names_ask_for_probabilities(name: str) -> None:
    sampling = parsed(**{name: 2}).sampling
    assert (sampling.logprobs, sampling.n_probs) == (True, 2)
    assert not parsed(**{name: 0}).sampling.logprobs


def test_a_folded_answer_has_all_that_came() -> None:
    events = (partial("He", 1, 2), partial("llo", 3), partial("", 4), LAST)
    assert folded(*events) == {**LAST, "content": "Hello"}
    whole = folded(*events, return_tokens=True)
    assert list(whole) == list(LAST)
    assert (whole["content"], whole["tokens"]) == ("Hello", [1, 2, 3, 4])


def test_probabilities_are_gathered() -> None:
    events = [partial("a", 1, completion_probabilities=[{"id": 1}]), LAST]
    assert folded(*events, n_probs=1)["completion_probabilities"] == [{"id": 1}]
    assert "completion_probabilities" not in folded(*events, response_fields=["stop"])


def test_only_the_fields_that_were_asked_for_are_told() -> None:
    events = (partial("Hello", 1), {**LAST, "timings": {"predicted_n": 1}})
    wanted = ["content", "timings/predicted_n", "no/such"]
    assert folded(*events, response_fields=wanted) == {
        "content": "Hello",
        "timings/predicted_n": 1,
    }
    picked = (partial("Hello", 1), {"content": "", "timings/predicted_n": 1})  # a stream's last one
    assert folded(*picked, response_fields=wanted) == folded(*events, response_fields=wanted)


def test_several_choices_are_an_array() -> None:
    events = (
        {**partial("b", 2), "index": 1},
        partial("a", 1),
        {**LAST, "index": 1},
        partial("a", 1),
        LAST,
    )
    assert folded(*events) == [{**LAST, "content": "aa"}, {**LAST, "index": 1, "content": "b"}]


def test_what_has_been_said_so_far_is_told_too() -> None:
    said = partial("He", 1, tokens_predicted=1)
    assert folded(said) == {**said, "tokens": []}
    fold = NATIVE.fold(parsed(return_tokens=True))
    fold.feed(frames.data(said))
    assert fold.so_far() == said
