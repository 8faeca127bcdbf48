"""Whole logs as test data: what each dialect writes of the same answers, byte for byte.

``python -m tests.transcripts`` writes the files anew; a change of theirs is one of the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from api.dialects import Folding
from api.dialects.anthropic_messages import MESSAGES
from api.dialects.llama_completion import NATIVE
from api.dialects.openai_chat import CHAT
from api.dialects.openai_completions import COMPLETIONS
from api.dialects.openai_responses import RESPONSES
from inference_worker.answer import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolArguments,
    ToolCallBegun,
)
from inference_worker.engine import Finish, FinishReason, Timings
from inference_worker.rendering import RENDERERS
from replay import frames
from replay.records import SessionRecord, State
from replay.request import Dialect, GenerationRequest, RenderOptions, SamplingParams

FOLDER = Path(__file__).parent
FOLDS: Mapping[Dialect, Folding] = {
    one.name: one.fold for one in (CHAT, COMPLETIONS, NATIVE, MESSAGES, RESPONSES)
}
RECORD = SessionRecord(
    tenant="default",
    conversation="golden",
    name="golden",
    model="org/m",
    epoch=1,
    completion_id="id-1",
    id_seed="seed",
    created_ms=1_700_000_000_999,
    prompt_token_count=5,
)
REQUEST = GenerationRequest(
    "openai.chat",
    "org/m",
    (),
    SamplingParams(seed=0),
    render=RenderOptions(include_usage=True),
    prompts=("golden",),
)
"""What is asked of every dialect."""

TIMINGS = Timings(prompt_n=4, prompt_ms=2.0, predicted_n=3, predicted_ms=10.0, cache_n=1)


STOP = Finish(FinishReason.STOP, ended_ms=1_700_000_002_001)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a parser makes of each token in turn, and how the answer ends; None: it fails."""

    steps: tuple[tuple[Delta, ...], ...]
    finish: Finish | None = STOP


WEATHER = (
    (ToolCallBegun(0, "c0", "weather"),),
    (ToolArguments(0, '{"at":"Zü'),),
    (ToolArguments(0, 'rich 🏔"}'),),
)
ANSWERS = {
    "text": Answer(((ContentDelta("Grüße,"),), (), (ContentDelta(' "日本" 👩‍🚀\n\n'),))),
    "nothing": Answer(()),
    "thought": Answer(
        (
            (ReasoningDelta("Hm"),),
            (ReasoningDelta("m."), ContentDelta("Yes")),
            (ContentDelta("."),),
        )
    ),
    "calls": Answer(
        (
            (ReasoningDelta("I look."),),
            (ContentDelta("Let me look."),),
            *WEATHER,
            (ToolCallBegun(1, "c1", "time"), ToolArguments(1, "{}")),
        )
    ),
    "stop_string": Answer(
        ((ContentDelta("One"),), (ContentDelta(" two"),)),
        replace(STOP, stopping_word=" three"),
    ),
    "length": Answer(((ContentDelta("One two"),),), Finish(FinishReason.LENGTH)),
    "length_in_a_call": Answer(WEATHER[:2], Finish(FinishReason.LENGTH)),
    "length_in_a_thought": Answer(((ReasoningDelta("Hm"),),), Finish(FinishReason.LENGTH)),
    "context": Answer(((ContentDelta("One"),),), Finish(FinishReason.LENGTH, context_full=True)),
    "failure": Answer(((ContentDelta("One"),),), None),
    "failure_at_once": Answer((), None),
}


class Script:
    """An ``AnswerParser`` that says what it was told to say."""

    def __init__(self, steps: Sequence[Sequence[Delta]]) -> None:
        self._steps = iter(steps)

    def feed(self, text: str) -> list[Delta]:
        """The next step's deltas, whatever the text."""
        return list(next(self._steps))

    def finish(self, *, is_cut: bool = False) -> list[Delta]:
        """Nothing is held back."""
        return []


def text_of(deltas: Sequence[Delta]) -> str:
    """What dialects that parse nothing show of them."""
    return "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))


def written(dialect: Dialect, answer: Answer) -> bytes:
    """The log of an answer, as worker and cluster write it."""
    renderer = RENDERERS[dialect](RECORD, REQUEST, Script(answer.steps))
    log = b""
    for count, deltas in enumerate(answer.steps, 1):
        log += renderer.step(text_of(deltas), tokens=count, timings=TIMINGS, ids=(count,))
    if answer.finish is None:
        return log + frames.closing(dialect, State.FAILED, "engine")
    count = len(answer.steps) + 1
    return log + renderer.finish(answer.finish, tokens=count, timings=TIMINGS)


def folded(dialect: Dialect, log: bytes) -> bytes:
    """The answer that is not streamed, as people read it; b"" where there is none."""
    fold = FOLDS[dialect](REQUEST)
    fold.feed(log)
    if fold.error is not None:
        return b""
    return (json.dumps(fold.answer(), ensure_ascii=False, indent=1) + "\n").encode()


def file_of(dialect: Dialect, name: str, kind: str = "sse") -> Path:
    """Where a transcript lies, or with "json" its fold."""
    return FOLDER / dialect / f"{name}.{kind}"
