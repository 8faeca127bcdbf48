"""Every dialect writes the same bytes as ever, and a takeover goes on with them."""

from __future__ import annotations

import pytest

from inference_worker.rendering import RENDERERS
from replay.request import Dialect
from tests.transcripts import (
    ANSWERS,
    FOLDS,
    RECORD,
    REQUEST,
    TIMINGS,
    Script,
    file_of,
    folded,
    text_of,
    written,
)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("dialect", FOLDS)
def test_the_bytes_are_the_golden_ones(dialect: Dialect, name: str) -> None:
    log = written(dialect, ANSWERS[name])
    assert log == file_of(dialect, name).read_bytes()
    fold = file_of(dialect, name, "json")
    assert folded(dialect, log) == (fold.read_bytes() if fold.exists() else b"")


@pytest.mark.parametrize("name", [name for name, answer in ANSWERS.items() if answer.finish])
@pytest.mark.parametrize("dialect", FOLDS)
def test_a_renderer_that_replayed_the_tokens_goes_on_where_the_log_ends(
    dialect: Dialect, name: str
) -> None:
    answer, log = ANSWERS[name], file_of(dialect, name).read_bytes()
    texts = [text_of(deltas) for deltas in answer.steps]
    for replayed in range(1, len(answer.steps) + 1):
        renderer = RENDERERS[dialect](RECORD, REQUEST, Script(answer.steps))
        for count in range(1, replayed + 1):
            renderer.step(texts[count - 1], tokens=count, timings=None, ids=(count,))
        rest = b""
        for count in range(replayed + 1, len(answer.steps) + 1):
            rest += renderer.step(texts[count - 1], tokens=count, timings=TIMINGS, ids=(count,))
        assert answer.finish is not None
        rest += renderer.finish(answer.finish, tokens=len(answer.steps) + 1, timings=TIMINGS)
        assert log.endswith(rest)
