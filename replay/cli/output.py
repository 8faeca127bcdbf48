"""Writes tables, JSON and complaints. The only module that knows rich.

Cells are given to rich as plain text, never as markup: an id may look like ``[bold]``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from replay.cli.formatting import printable

UNBOUNDED_COLUMNS = 10_000
"""How wide a table may be; rich cuts what is wider."""

STYLES = {
    "queued": "yellow",
    "loading": "yellow",
    "running": "green",
    "completed": "dim",
    "stopped": "dim",
    "failed": "red",
    "lost": "red",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column. ``is_number``: set right."""

    title: str
    is_number: bool = False


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    has_colours: bool,
    has_titles: bool = True,
) -> str:
    """Aligned columns, as wide as it takes: half an epoch or half a number helps nobody."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=has_titles)
    for column in columns:
        grid.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=True,
        )
    for row in rows:
        grid.add_row(*(Text(printable(cell), style=_style(cell)) for cell in row))
    console = Console(
        width=UNBOUNDED_COLUMNS,
        force_terminal=has_colours,
        no_color=None if has_colours else True,  # None: as the environment wants it
        highlight=False,
    )
    with console.capture() as captured:
        console.print(grid)
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def write_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, has_titles: bool = True
) -> None:
    """The table on stdout."""
    write(table(columns, rows, has_colours=sys.stdout.isatty(), has_titles=has_titles))


def write_json(value: Any) -> None:
    """One line of JSON, in ASCII, so that no byte of it means something to a terminal."""
    write(json.dumps(value, separators=(",", ":")) + "\n")


def write_fields(fields: Mapping[str, str]) -> None:
    """Names and values, one pair a line."""
    write_table([Column(""), Column("")], list(fields.items()), has_titles=False)


def write(text: str) -> None:
    """Text on stdout, at once. Raises BrokenPipeError."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_bytes(data: bytes) -> None:
    """Bytes on stdout, at once. Raises BrokenPipeError."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """A remark on stderr, so that stdout holds nothing but what was asked for."""
    sys.stderr.write(printable(text) + "\n")


def agrees(question: str) -> bool:
    """Asks on stderr, so that stdout stays clean, and takes only a yes for a yes."""
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # nobody there
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")


def complain(text: str) -> None:
    """Why the command did not come to its end, in one line on stderr."""
    note(f"replayctl: {text}")


def _style(cell: str) -> str:
    return STYLES.get(cell.split("(")[0], "")
