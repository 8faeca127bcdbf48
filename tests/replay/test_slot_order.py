"""Names of the files that slots are saved to."""

from __future__ import annotations

import pytest

from replay.slot_order import is_file_name


@pytest.mark.parametrize("name", ["x", "trip.slot", "日本 1.bin", "a.b-c_~", "x" * 200])
def test_a_file_has_any_name(name: str) -> None:
    assert is_file_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "x.", " x", "x ", "a..b", "x\n"])
@pytest.mark.parametrize("around", ["{}", "a/{}", "{}/a", "a\\{}", "c:{}"])
def test_a_files_name_leads_nowhere_else(name: str, around: str) -> None:
    assert not is_file_name(around.format(name))


@pytest.mark.parametrize(
    "name", ["/x", "a/b", "a\0b", "a\x85b", "a*", "x" * 201, "語" * 67, "\ud800"]
)
def test_a_files_name_is_one_on_any_system(name: str) -> None:
    assert not is_file_name(name)
