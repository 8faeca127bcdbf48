"""PROTOCOL.md and its tests, both ways: no clause without a test, no test without a clause."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLAUSE = re.compile(r"\*\*([A-Z]+-\d+)\*\*")


def clauses() -> list[str]:
    """The ids of PROTOCOL.md, in order."""
    return CLAUSE.findall((ROOT / "PROTOCOL.md").read_text("utf-8"))


def claims(source: str, mark_name: str = "clause") -> Iterator[tuple[str, str]]:
    """The tests of a source and what their marks of this name claim."""
    wanted = f"pytest.mark.{mark_name}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == wanted:
                    assert node.name.startswith("test_"), node.name
                    yield node.name, ast.literal_eval(mark.args[0])


@cache
def claimed(mark_name: str = "clause") -> dict[str, list[str]]:
    """Clauses, or guarantees, and who tests them."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for test, clause in claims(file.read_text("utf-8"), mark_name):
            found.setdefault(clause, []).append(f"{file.relative_to(ROOT)}::{test}")
    return found


def test_the_ids_are_unique_and_dense() -> None:
    found = clauses()
    assert len(found) == len(set(found)) > 40
    for family in {one.split("-")[0] for one in found}:
        numbers = [int(one.split("-")[1]) for one in found if one.startswith(family + "-")]
        assert numbers == list(range(1, len(numbers) + 1)), family


def test_every_clause_has_a_test() -> None:
    assert set(clauses()) - set(claimed()) == set()


def test_every_claimed_clause_exists() -> None:
    unknown = set(claimed()) - set(clauses())
    assert {clause: claimed()[clause] for clause in unknown} == {}


def test_a_mark_is_found_and_what_is_none_is_not() -> None:
    source = '@pytest.mark.clause("A-1")\nasync def test_a(): ...\n@pytest.mark.anyio\ndef b(): ...'
    assert list(claims(source)) == [("test_a", "A-1")]
