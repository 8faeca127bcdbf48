"""Several answers of one session, over a whole cluster."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from replay.records import TOKEN_LAST, unpack_tokens

from .stored import stored
from .wire import CHAT, DONE, STREAM, Node, asking, error_of, events, naming, target

OPENAI, NATIVE = "/v1/completions", "/completion"
PROMPTS = [f"Go on {number}. [[tokens={number} rate=0 seed=3]]" for number in (30, 5, 12)]


def answered(node: Node, path: str, **body: Any) -> Any:
    response = node.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def texts(log: bytes) -> list[str]:
    """The text of each choice of a stream."""
    found: dict[int, str] = {}
    for choice in (choice for event in events(log) for choice in event["choices"]):
        text = choice["text"] if "text" in choice else choice["delta"].get("content")
        found[choice["index"]] = found.get(choice["index"], "") + (text or "")
    return [found[index] for index in sorted(found)]


@pytest.mark.clause("CHOICE-1")
def test_a_chat_may_have_several_answers(node: Node, other: Node, db: Redis, name: str) -> None:
    body = asking("[[tokens=20 rate=0]]", n=3, seed=7, stream_options={"include_usage": True})
    log = node.http.post(CHAT, headers=naming(name), json={**body, "stream": True}).content
    folded = node.http.post(CHAT, json=body).json()
    shown = [choice["message"]["content"] for choice in folded["choices"]]
    assert [choice["index"] for choice in folded["choices"]] == [0, 1, 2]
    assert texts(log) == shown
    assert len(set(shown)) == 3
    finishes = [one for one in events(log) if one["choices"] and one["choices"][0]["finish_reason"]]
    assert sorted(one["choices"][0]["index"] for one in finishes) == [0, 1, 2]
    assert log.count(DONE) == 1 and log.endswith(DONE)
    usage = events(log)[-1]["usage"]
    assert (usage["completion_tokens"], folded["usage"]["completion_tokens"]) == (60, 60)
    packed = db.get(stored(db, name).keys.tokens)
    assert isinstance(packed, bytes)
    tokens = unpack_tokens(packed)
    assert [sum(token.choice == index for token in tokens) for index in range(3)] == [20] * 3
    assert sum(bool(token.flags & TOKEN_LAST) for token in tokens) == 2
    half = len(log) // 2
    assert other.http.get(target(STREAM, conv_id=name, **{"from": half})).content == log[half:]


@pytest.mark.clause("CHOICE-2")
def test_the_first_answer_is_the_one_that_there_would_be_alone(node: Node) -> None:
    words = "[[tokens=9 rate=0]]"
    alone = [answered(node, OPENAI, prompt=words, seed=seed) for seed in (7, 8)]
    together = answered(node, OPENAI, prompt=words, seed=7, n=2)
    assert [choice["text"] for choice in together["choices"]] == [
        one["choices"][0]["text"] for one in alone
    ]


@pytest.mark.clause("CHOICE-1")
def test_each_prompt_gets_the_answer_that_it_gets_alone(node: Node) -> None:
    alone = [answered(node, NATIVE, prompt=prompt, return_tokens=True) for prompt in PROMPTS]
    together = answered(node, NATIVE, prompt=PROMPTS, return_tokens=True)
    for key in ("content", "tokens", "prompt", "tokens_evaluated", "tokens_predicted"):
        assert [one[key] for one in together] == [one[key] for one in alone]
    assert [one["index"] for one in together] == [0, 1, 2]
    openai = answered(node, OPENAI, prompt=PROMPTS)
    assert [one["text"] for one in openai["choices"]] == [one["content"] for one in alone]
    assert openai["usage"]["completion_tokens"] == 47
    assert openai["usage"]["prompt_tokens"] == sum(one["tokens_evaluated"] for one in alone)


@pytest.mark.clause("CHOICE-2")
def test_more_answers_than_slots_are_given_one_after_the_other(node: Node) -> None:
    shown = answered(node, OPENAI, prompt="[[tokens=6 rate=0]]", n=32, seed=1)["choices"]
    assert len(shown) == 32
    assert all(choice["text"] and choice["finish_reason"] == "stop" for choice in shown)


@pytest.mark.clause("CHOICE-1")
@pytest.mark.parametrize(
    "body", [{"n": 33}, {"n": 0}, {"prompt": ["x"] * 33}, {"prompt": ["x", "y"], "n": 17}]
)
def test_more_than_32_answers_are_400(node: Node, body: dict[str, Any]) -> None:
    for path in (OPENAI, NATIVE):
        response = node.http.post(path, json={"prompt": "x", **body})
        assert response.status_code == 400
        assert error_of(response)["message"].startswith("Field '")


@pytest.mark.clause("CHOICE-1")
def test_one_answer_that_fails_fails_all(node: Node) -> None:
    prompts = ["[[tokens=500 rate=50]]", "[[fail_at=2 rate=0]]"]
    response = node.http.post(OPENAI, json={"prompt": prompts})
    assert (response.status_code, error_of(response)["reason"]) == (500, "engine")


@pytest.mark.clause("CHOICE-1")
def test_a_stop_ends_all_answers(node: Node, name: str) -> None:
    with node.posting(name, "[[tokens=4000 rate=50]]", n=3) as post:
        post.containing(b'"index":2')
        assert node.stop(name, keep="true").status_code == 204
        assert post.whole().endswith(b': end {"state":"stopped","reason":"client"}\n\n')
