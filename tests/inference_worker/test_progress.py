"""How far a prompt is: each stage once, in each dialect's words."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from inference_worker.engine import Step
from inference_worker.progress import PromptProgress
from inference_worker.rendering import renderers_of
from replay import frames
from replay.records import SessionRecord
from replay.request import Dialect, GenerationRequest, RenderOptions, SamplingParams


def telling(dialect: Dialect, *, with_timings: bool = False) -> PromptProgress:
    record = SessionRecord("t", "c", "c", "m", 1, dialect=dialect)
    options = RenderOptions(return_progress=True)
    request = GenerationRequest(
        dialect, "m", (), SamplingParams(seed=1), render=options, prompts=("x",)
    )
    return PromptProgress(renderers_of(record, request)[0], with_timings=with_timings)


def stages(progress: PromptProgress, *done: int) -> list[dict[str, Any]]:
    steps = [
        Step("s", prompt_tokens_done=one, prompt_tokens_total=300, prompt_tokens_cached=128)
        for one in done
    ]
    told = b"".join(progress.told(step) for step in steps)
    return [frames.value_of(frame) for frame in frames.split(told)]


@pytest.mark.parametrize("dialect", ["openai.chat", "openai.completions", "llama.completion"])
def test_what_was_cached_is_told_first_and_then_each_chunk_once(dialect: Dialect) -> None:
    events = stages(telling(dialect), 256, 256, 300, 300)
    told = [event["prompt_progress"] for event in events]
    assert [one["processed"] for one in told] == [128, 256, 300]
    assert all((one["total"], one["cache"]) == (300, 128) for one in told)
    assert all(one["time_ms"] >= 0 for one in told)


@pytest.mark.parametrize(
    "dialect", ["openai.chat", "openai.completions", "openai.responses", "llama.completion"]
)
def test_each_stage_has_its_timings_where_each_token_has(dialect: Dialect) -> None:
    events = stages(telling(dialect, with_timings=True), 256, 300)
    told = [event["timings"] for event in events if "prompt_progress" in event]
    assert [(one["cache_n"], one["prompt_n"]) for one in told] == [(128, 0), (128, 128), (128, 172)]
    spent = [one["prompt_ms"] for one in told]
    assert spent[0] == 0 and spent == sorted(spent)
    assert all(one["predicted_n"] == one["predicted_ms"] == 0 for one in told)
    assert not any("timings" in event for event in stages(telling(dialect), 300))


def test_a_chats_progress_looks_like_its_role() -> None:
    [event, *_] = stages(telling("openai.chat"), 300)
    [choice] = event["choices"]
    assert choice["delta"] == {"role": "assistant", "content": None}
    assert json.dumps(event).endswith("}}")


@pytest.mark.parametrize("dialect", get_args(Dialect))
def test_every_dialect_may_be_asked(dialect: Dialect) -> None:
    events = stages(telling(dialect), 300)
    assert bool(events) == (dialect != "anthropic.messages")
