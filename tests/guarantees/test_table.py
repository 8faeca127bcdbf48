"""PROTOCOL.md's table of guarantees and the tests that are marked with them."""

from __future__ import annotations

import re

from tests.protocol.test_clauses import ROOT, claimed, clauses

ROW = re.compile(r"^\| (T\d+) \| (.+) \| (.+) \|$", re.MULTILINE)

TO_COME = {"T20", "T28", "T31"}
"""Mixed versions; T20 never was. What comes early is welcome."""


def rows() -> dict[str, list[str]]:
    """The guarantees and the clauses that each proves."""
    found = ROW.findall((ROOT / "PROTOCOL.md").read_text("utf-8"))
    assert len(found) == len({name for name, _, _ in found}) > 30
    return {name: proven.split(", ") for name, _, proven in found}


def test_what_is_marked_is_listed() -> None:
    unknown = set(claimed("guarantee")) - set(rows())
    assert {name: claimed("guarantee")[name] for name in unknown} == {}


def test_what_is_listed_is_marked() -> None:
    assert set(rows()) - set(claimed("guarantee")) == set()


def test_every_promise_is_listed_but_those_to_come() -> None:
    promised = {f"T{number}" for number in range(1, 41)} - TO_COME
    assert promised - set(rows()) == set()


def test_what_is_proven_are_clauses() -> None:
    assert {one for proven in rows().values() for one in proven} - set(clauses()) == set()
