"""What a POST asks of the samplers, and what it is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from .stored import stored
from .test_post import masked
from .wire import Node, error_of, events, text_of

GOLDEN = Path(__file__).parent / "golden" / "logprobs.sse"
SHORT = "[[tokens=12 rate=0 seed=3]]"


@pytest.mark.clause("POST-12")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"adaptive_decay": 1},
            "Field 'adaptive_decay': Value must be between 0 <= value <= 0.99, but got 1",
        ),
        (
            {"min_keep": -1},
            "Field 'min_keep': Value must be between 0 <= value <= 2147483647, but got -1",
        ),
        ({"logit_bias": {"1000000": 1}}, "Field 'logit_bias': there is no token 1000000"),
        ({"samplers": "kz"}, "Field 'samplers': 'z' is not one of"),
    ],
)
def test_what_no_sampler_can_do_is_400(node: Node, fields: dict[str, Any], message: str) -> None:
    response = node.post(None, SHORT, **fields)
    assert response.status_code == 400
    assert error_of(response)["message"].startswith(message)


@pytest.mark.clause("POST-12")
def test_what_was_asked_of_the_samplers_is_what_the_worker_is_told(
    node: Node, db: Redis, name: str
) -> None:
    asked = {"samplers": "xk", "xtc_probability": 7, "logit_bias": {"ab": -1, "3": False}}
    assert node.post(name, SHORT, **asked).status_code == 200
    told = json.loads(stored(db, name).fields["request"])["sampling"]
    assert told["samplers"] == ["xtc", "top_k"]
    assert told["xtc_probability"] == 1
    assert told["logit_bias"] == [[ord("a"), -1.0], [ord("b"), -1.0], [3, None]]


@pytest.mark.clause("POST-13")
def test_the_bytes_of_probabilities_are_the_golden_ones(node: Node, model: str, name: str) -> None:
    asked = {"stream": True, "logprobs": True, "top_logprobs": 1}
    body = node.post(name, "[[tokens=20 rate=0 seed=7]]", **asked).content
    assert masked(body, model).decode() == GOLDEN.read_text("utf-8")


@pytest.mark.clause("POST-13")
def test_the_tokens_of_the_probabilities_are_the_content(node: Node) -> None:
    words = "[[tokens=200 rate=0 seed=3]]"
    chunks = events(node.post(None, words, stream=True, logprobs=True).content)
    choices = [one["choices"][0] for one in chunks]
    told = [entry for one in choices for entry in one.get("logprobs", {"content": []})["content"]]
    assert b"".join(map(bytes, (entry["bytes"] for entry in told))).decode() == text_of(chunks)
    [choice] = node.post(None, words, stream=False, logprobs=True).json()["choices"]
    assert choice["logprobs"] == {"content": told}
    after = node.post(None, SHORT, stream=False, n_probs=2, post_sampling_probs=True).json()
    [entry, *_] = after["choices"][0]["logprobs"]["content"]
    assert list(entry) == ["id", "token", "bytes", "prob", "top_probs"]
