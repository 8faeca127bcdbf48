"""Tables and JSON on a terminal and in a pipe."""

from __future__ import annotations

import pytest

from replay.cli.output import Column, complain, table, write_json

COLUMNS = (Column("ID"), Column("STATE"), Column("SIZE", is_number=True))


def test_columns_are_aligned_and_lines_have_no_trailing_blanks() -> None:
    shown = table(COLUMNS, [("漢字", "running", "7"), ("b", "queued", "1,000")], has_colours=False)
    assert shown == (
        "ID    STATE     SIZE\n"
        "漢字  running      7\n"
        "b     queued   1,000\n"
    )  # fmt: skip


def test_nothing_is_cut_however_long_it_is() -> None:
    assert "x" * 1024 in table(COLUMNS, [("x" * 1024, "", "")], has_colours=False)


def test_an_id_is_neither_markup_nor_a_terminals_command() -> None:
    shown = table(COLUMNS, [("[red]:bug:[/red]\x1b[2J", "", "")], has_colours=True)
    assert "[red]:bug:[/red]\\x1b[2J" in shown


def test_states_have_colours_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    row = [("a", "failed(engine)", "")]
    assert "\x1b[31mfailed(engine)" in table(COLUMNS, row, has_colours=True)
    assert "\x1b" not in table(COLUMNS, row, has_colours=False)


def test_json_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"id": "🧪\x9b\n"})
    assert capsys.readouterr().out == '{"id":"\\ud83e\\uddea\\u009b\\n"}\n'


def test_a_complaint_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    complain("two\nlines")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "replayctl: two\\nlines\n")
