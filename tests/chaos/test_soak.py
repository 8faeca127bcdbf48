"""A soak of seconds, and that one of minutes would tell what grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from .soak import Reading, churn_of, growth, soak

SECONDS = 8.0


def readings(values: list[int], figure: str = "files") -> list[list[Reading]]:
    return [[Reading("api-1", figure, value)] for value in values]


def test_what_is_level_or_falls_did_not_grow() -> None:
    assert growth(readings([40, 44, 41, 43, 40, 42])) == []
    assert growth(readings([40, 30, 20])) == []


@pytest.mark.parametrize("figure", ["files", "tasks", "keys"])
def test_what_rises_steadily_grew(figure: str) -> None:
    assert growth(readings([40 + 200 * number for number in range(9)], figure))


def test_the_first_third_does_not_count() -> None:
    assert growth(readings([0, 0, 0, 90, 90, 90, 90, 90, 90])) == []


def test_no_two_rounds_share_a_conversation() -> None:
    rounds = [{asked.name for asked in churn_of(seed).asks if asked.name} for seed in range(40)]
    assert len(set().union(*rounds)) == sum(map(len, rounds))


@pytest.mark.anyio
@pytest.mark.system
@pytest.mark.timeout(240)
@pytest.mark.guarantee("T34")
async def test_nothing_piles_up(tmp_path: Path) -> None:
    assert await soak(SECONDS, tmp_path, print) == []
