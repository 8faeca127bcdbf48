"""A handful of seeds on real processes; `python -m tests.chaos` runs as many as time allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from .plan import plan_of
from .run import run

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

SEEDS = (4, 5, 11, 40)
"""Together they kill, end, freeze, reset, throttle and cut off; Redis stands still and forgets."""


@pytest.mark.guarantee("T35")
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_seed_breaks_nothing(seed: int, tmp_path: Path) -> None:
    plan = plan_of(seed)
    verdict = await run(plan, tmp_path)
    assert not verdict.skipped, verdict.skipped
    assert verdict.broken == [], "\n".join(plan.lines())
    assert verdict.bytes_checked > 0
