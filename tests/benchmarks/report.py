"""Rows of numbers and how they are shown: a Markdown table under a line that says where and when.

Pure but for ``heading``, which asks the machine who it is.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from statistics import median

from deploy.bootstrap import ROOT
from deploy.local.redis_server import find_program

PACKAGES = ("redis", "hiredis", "uvicorn", "uvloop", "fastapi", "arq", "llama-cpp-python")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: all its values, in ``unit``; none where it was not measured, ``note`` says why.

    ``is_floor``: what nothing here can be below.
    """

    what: str
    values: Sequence[float]
    unit: str
    is_floor: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return median(self.values)

    def cells(self) -> tuple[str, ...]:
        """The row as the table shows it."""
        if not self.values:
            return (self.what, "", "", "", "0", self.note)
        one = len(self.values) == 1
        return (
            f"{'floor: ' if self.is_floor else ''}{self.what}",
            f"{shown(self.median)} {self.unit}",
            "" if one else shown(quantile(self.values, 0.95)),
            "" if one else f"{shown(min(self.values))} to {shown(max(self.values))}",
            str(len(self.values)),
            self.note,
        )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def shown(value: float) -> str:
    """Three digits that matter."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    head = ("", "median", "p95", "lowest to highest", "n", "")
    lines = [head, ("---",) * len(head), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def heading() -> str:
    """Date, machine, load, versions and commit: what the numbers below belong to."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}\n"
        f"{os.cpu_count()} cores ({_cpu()}), Linux {platform.release()}, load {load}\n"
        f"Python {platform.python_version()}, Redis {find_program()}, {versions}"
    )


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"
