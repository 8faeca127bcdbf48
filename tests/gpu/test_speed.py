"""Tokens a second on a GPU, beside llama-server's. `-s` shows the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.engine.comparing import ENGINE, GPU, THEIRS, measure
from tests.benchmarks.llama_server import PROGRAM
from tests.benchmarks.report import heading, table

pytestmark = pytest.mark.timeout(1800)


def test_many_answers_take_less_time_together_than_one_after_the_other(model_file: Path) -> None:
    if not PROGRAM:
        pytest.skip("no GPU comparison: REPLAY_LLAMA_SERVER names no llama-server built for it")
    rows = list(measure(GPU))
    print(f"\n{heading()}\n\n{table(rows)}")
    medians = {row.what: row.median for row in rows}

    def tokens_per_s(width: int) -> float:
        what = f"{width} x 30 tokens"
        return medians[f"{what}: {THEIRS}"] * medians[f"{what}: {ENGINE} over it"]

    assert tokens_per_s(8) > 2 * tokens_per_s(1)
