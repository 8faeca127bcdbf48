from typing import Any

import numpy as np
import pytest

from inference_worker.likelihood import COLUMNS, Likelihoods, are_falling, likeliest

SIZES = (1, 40, COLUMNS - 1, COLUMNS, 3 * COLUMNS + 5, 49_152)
COUNTS = (0, 1, 20, 100, COLUMNS + 1)


def rows(size: int) -> list[Any]:
    """As models give them; with many equal ones, some of them impossible; and all equal."""
    random = np.random.default_rng(size)
    plain = random.normal(-1, 3, size).astype(np.float32)
    banned = np.where(random.random(size) < 0.5, np.float32("-inf"), np.round(plain))
    banned[0] = 0  # one is always left
    return [plain, np.round(plain), banned, np.zeros(size, np.float32)]


def all_logarithms(logits: Any) -> Any:
    shifted = logits.astype(np.float64) - float(logits.max())
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("size", SIZES)
def test_the_likeliest_are_the_first_of_a_whole_stable_sort(size: int) -> None:
    for logits in rows(size):
        order = np.argsort(-logits, kind="stable").tolist()
        for count in COUNTS:
            assert likeliest(logits, count).tolist() == order[:count]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beyond", [0, 1000, -1000])
def test_their_logarithms_are_those_of_a_whole_normalisation(size: int, beyond: int) -> None:
    likelihoods = Likelihoods(max(SIZES))
    for logits in rows(size):
        logits += beyond
        before = logits.copy()
        places = [size - 1, *likeliest(logits, 20).tolist()]
        told = likelihoods.logarithms(logits, places)
        assert told == pytest.approx(all_logarithms(before)[places], abs=1e-11)
        assert (logits == before).all()


def test_values_fall_where_none_is_as_great_as_the_one_before() -> None:
    falling = np.array([3, 2, -1, -np.inf], np.float32)
    assert are_falling(falling, 4)
    assert not are_falling(falling, 5)
    for broken in ([3, 3, 1], [3, 1, 2], [1, np.nan, 0], [np.nan, 1, 0]):
        assert not are_falling(np.array(broken, np.float32), 3)
