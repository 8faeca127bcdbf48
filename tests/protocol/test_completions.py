"""Completions without a template, in both dialects, over a whole cluster."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from .wire import DONE, STREAM, Node, error_of, events, naming, target

OPENAI, NATIVE = "/v1/completions", "/completion"
WORDS = "Go on. [[tokens=12 rate=0 seed=3]]"


def asked(node: Node, path: str, name: str | None = None, **body: Any) -> httpx.Response:
    return node.http.post(path, headers=naming(name), json={"prompt": WORDS, **body})


def answered(node: Node, path: str, **body: Any) -> Any:
    response = asked(node, path, **body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.clause("TEXT-1")
@pytest.mark.parametrize("path", [OPENAI, NATIVE, "/completions"])
def test_a_text_and_its_tokens_are_the_same_prompt(node: Node, other: Node, path: str) -> None:
    tokens = node.http.post("/tokenize", json={"content": WORDS, "add_special": True}).json()

    def shown(prompt: Any) -> str:
        answer = answered(other, path, prompt=prompt)
        return str(answer["choices"][0]["text"] if "choices" in answer else answer["content"])

    first, *rest = tokens["tokens"]
    by_text = shown(WORDS)
    assert by_text
    assert shown([first, *rest]) == by_text
    assert shown([first, WORDS]) == by_text
    assert shown(rest) != by_text


@pytest.mark.clause("TEXT-1")
@pytest.mark.parametrize("path", [OPENAI, NATIVE])
@pytest.mark.parametrize("prompt", [None, [], [10**6], {}, [[None]], ""])
def test_what_is_no_prompt_is_400(node: Node, path: str, prompt: Any) -> None:
    response = asked(node, path, prompt=prompt)
    if prompt == "":  # the model's own beginning is a prompt
        assert response.status_code == 200
        return
    assert response.status_code == 400
    assert error_of(response)["message"].startswith("Field 'prompt")


@pytest.mark.clause("TEXT-1")
@pytest.mark.parametrize("path", [OPENAI, NATIVE])
def test_it_can_be_replayed_from_every_frame_on_another_node(
    node: Node, other: Node, name: str, path: str
) -> None:
    log = asked(node, path, name, stream=True, n_probs=1).content
    offset = 0
    while (offset := log.find(b"\n\n", offset) + 2) != 1:
        assert (
            other.http.get(target(STREAM, conv_id=name, **{"from": offset})).content
            == (log[offset:])
        )


@pytest.mark.clause("TEXT-2")
def test_openais_chunks_come_to_the_folded_answer(node: Node) -> None:
    body = asked(node, OPENAI, stream=True, logprobs=1, stream_options={"include_usage": True})
    assert body.content.endswith(DONE)
    *chunks, last, usage = events(body.content)
    folded = answered(node, OPENAI, logprobs=1)
    assert {chunk["object"] for chunk in chunks} == {folded["object"]} == {"text_completion"}
    assert body.headers["X-Completion-Id"] == last["id"]
    assert last["id"].startswith("cmpl-")
    [choice] = folded["choices"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("", "stop")
    assert (usage["choices"], usage["usage"]) == ([], last["usage"])
    assert folded["usage"]["completion_tokens"] == 12
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert len(choice["logprobs"]["text_offset"]) == len(choice["logprobs"]["content"])


@pytest.mark.clause("TEXT-2")
@pytest.mark.parametrize("field", ["echo", "suffix", "best_of"])
def test_what_openais_route_does_not_do_is_400(node: Node, field: str) -> None:
    value = {"echo": True, "suffix": "end", "best_of": 2}[field]
    response = asked(node, OPENAI, **{field: value})
    assert (response.status_code, field in error_of(response)["message"]) == (400, True)


@pytest.mark.clause("TEXT-3")
def test_native_events_come_to_the_folded_answer(node: Node) -> None:
    streamed = asked(node, NATIVE, stream=True)
    *partials, last = events(streamed.content)
    assert b"[DONE]" not in streamed.content
    folded = answered(node, NATIVE, return_tokens=True)
    assert [one["stop"] for one in partials] == [False] * 12
    assert (last["stop"], last["content"], last["tokens"]) == (True, "", [])
    assert "".join(one["content"] for one in partials) == folded["content"]
    assert [token for one in partials for token in one["tokens"]] == folded["tokens"]
    assert list(folded) == list(last)
    assert (folded["prompt"], folded["stop_type"]) == ("<|bos|>" + WORDS, "eos")
    assert answered(node, NATIVE)["tokens"] == []
    assert len(answered(node, NATIVE, n_probs=1)["completion_probabilities"]) > 0


@pytest.mark.clause("TEXT-3")
def test_native_answers_say_why_they_end_and_only_what_was_asked(node: Node) -> None:
    fields = ["stop_type", "stopping_word", "generation_settings/n_predict"]
    cut = answered(node, NATIVE, n_predict=3, response_fields=fields)
    assert cut == {"stop_type": "limit", "stopping_word": "", "generation_settings/n_predict": 3}
    whole = answered(node, NATIVE)["content"]
    stopped = answered(node, NATIVE, stop=whole[4:6], response_fields=["content", *fields])
    assert stopped["content"] == whole[:4]
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", whole[4:6])


@pytest.mark.clause("TEXT-4")
def test_a_model_that_cannot_fill_a_hole_says_what_it_lacks(node: Node) -> None:
    response = node.http.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    assert (response.status_code, error_of(response)["type"]) == (501, "not_supported_error")
    assert "prefix token is missing." in error_of(response)["message"]
    mistake = node.http.post("/infill", json={"input_prefix": "a"})
    assert (mistake.status_code, "input_suffix" in error_of(mistake)["message"]) == (400, True)


@pytest.mark.clause("POST-19")
@pytest.mark.parametrize("stream", [False, True])
def test_a_verbose_answer_shows_the_prompt_that_it_was_made_of(
    node: Node, other: Node, stream: bool
) -> None:
    body = {"messages": [{"role": "user", "content": WORDS}], "stream": stream, "verbose": True}
    told = node.http.post("/v1/chat/completions", json=body)
    chunks = (
        [one for one in events(told.content) if "__verbose" in one] if stream else [told.json()]
    )
    [found] = [chunk["__verbose"] for chunk in chunks]
    assert found["prompt"] == other.http.post("/apply-template", json=body).json()["prompt"]
    assert found["stop_type"] == "eos"
    assert answered(node, OPENAI, verbose=True)["__verbose"]["prompt"].endswith(WORDS)


@pytest.mark.clause("TEXT-3")
def test_an_end_that_is_ignored_is_told_as_a_bias(node: Node) -> None:
    def biases(**body: Any) -> Any:
        return answered(node, NATIVE, n_predict=2, **body)["generation_settings"]["logit_bias"]

    assert biases() == []
    [bias] = biases(ignore_eos=True)
    assert bias["bias"] is None
