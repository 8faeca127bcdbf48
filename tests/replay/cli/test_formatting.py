"""Numbers, times and ids as a person reads them."""

from __future__ import annotations

import pytest

from replay.cli import formatting

NOW_MS = 1_700_000_000_000


def test_a_long_id_is_shortened_unless_it_is_asked_for_whole() -> None:
    assert formatting.shortened("alice@example.com") == "alice@ex…"
    assert formatting.shortened("alice@example.com", full=True) == "alice@example.com"
    assert formatting.shortened("12345678") == "12345678"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [bold] 🧪", "plain [bold] 🧪"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("two\nlines", "two\\nlines"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\x9b1m", "\\x9b1m"),
    ],
)
def test_nothing_in_a_line_steers_the_terminal(text: str, shown: str) -> None:
    assert formatting.printable(text) == shown


def test_text_keeps_its_lines_and_loses_its_escapes() -> None:
    assert formatting.harmless("a\n\tb\r\x1b]0;c\x07") == "a\n\tb\\r\\x1b]0;c\\x07"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (33_554_432, "32.0 MiB")],
)
def test_sizes_are_short(count: int, shown: str) -> None:
    assert formatting.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172800, "2d"),
    ],
)
def test_durations_have_one_unit(seconds: int, shown: str) -> None:
    assert formatting.duration(seconds * 1000) == shown


def test_a_moment_tells_when_and_how_long_ago() -> None:
    assert formatting.moment(NOW_MS - 3000, NOW_MS) == "2023-11-14 22:13:17Z (3s ago)"
    assert formatting.moment(NOW_MS + 300_000, NOW_MS) == "2023-11-14 22:18:20Z (in 5m)"
    assert formatting.moment(0, NOW_MS) == "-"


def test_a_reason_stands_beside_its_state() -> None:
    assert formatting.state("stopped", "client") == "stopped(client)"
    assert formatting.state("running", "") == "running"
