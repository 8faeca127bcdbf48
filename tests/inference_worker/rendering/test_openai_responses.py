"""What the transcripts do not show of the Responses' events."""

from __future__ import annotations

from inference_worker.answer import ContentDelta
from inference_worker.rendering.openai_responses import ResponsesRenderer
from inference_worker.rendering.parts import Progress
from replay import frames
from tests.transcripts import RECORD, REQUEST, TIMINGS, Script

STEPS = ((ContentDelta("One"),), (ContentDelta(" two"),))


def test_progress_is_told_and_moves_no_number() -> None:
    plain = ResponsesRenderer(RECORD, REQUEST, Script(STEPS))
    telling = ResponsesRenderer(RECORD, REQUEST, Script(STEPS))
    told = [telling.progress(Progress(9, 0, done, 1)) for done in (0, 9)]
    first = plain.step("", tokens=1, timings=TIMINGS)
    begun = b"".join(frame + b"\n\n" for frame in list(frames.split(first))[:2])
    assert told[0].startswith(begun)
    events = [frames.value_of(frame) for frame in frames.split(b"".join(told))]
    assert [event["sequence_number"] for event in events] == [0, 1, 1, 1]
    assert [event["prompt_progress"]["processed"] for event in events[2:]] == [0, 9]
    assert begun + telling.step("", tokens=1, timings=TIMINGS) == first
    rest = plain.step("", tokens=2, timings=TIMINGS)
    assert telling.step("", tokens=2, timings=TIMINGS) == rest
