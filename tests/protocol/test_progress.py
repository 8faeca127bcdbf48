"""How far a long prompt is, before its answer begins."""

from __future__ import annotations

import json

import pytest

from replay import frames

from .wire import CHAT, Node, asking

WORDS = "x" * 1000 + "[[tokens=12 rate=0 seed=3]]"
PATHS = {
    CHAT: asking(WORDS),
    "/v1/completions": {"prompt": WORDS},
    "/completion": {"prompt": WORDS},
    "/v1/responses": {"input": WORDS},
}


@pytest.mark.clause("POST-17")
@pytest.mark.parametrize("path", PATHS)
def test_a_prompts_progress_comes_before_its_answer(node: Node, path: str) -> None:
    asked = {"stream": True, "return_progress": True, "timings_per_token": True}
    body = {**PATHS[path], **asked, "cache_prompt": False}
    log = node.http.post(path, json=body).content
    told = [frames.value_of(frame) for frame in frames.split(log)]
    stages = [one["prompt_progress"] for one in told if "prompt_progress" in one]
    processed = [one["processed"] for one in stages]
    assert processed == sorted(set(processed)) and len(processed) > 2
    assert (stages[0]["processed"], stages[-1]["processed"]) == (0, stages[0]["total"])
    assert processed == [one["timings"]["prompt_n"] for one in told if "prompt_progress" in one]
    assert {(one["total"], one["cache"]) for one in stages} == {(stages[0]["total"], 0)}
    begun = max(index for index, one in enumerate(told) if "prompt_progress" in one)
    assert '" w"' not in json.dumps(told[:begun])
    assert '" w"' in json.dumps(told[begun:])


@pytest.mark.clause("POST-17")
@pytest.mark.parametrize("more", [{"stream": True}, {"stream": False, "return_progress": True}])
def test_who_does_not_ask_for_it_in_a_stream_is_not_told(
    node: Node, more: dict[str, object]
) -> None:
    assert b"prompt_progress" not in node.http.post(CHAT, json={**asking(WORDS), **more}).content
