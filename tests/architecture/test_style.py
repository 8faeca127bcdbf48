"""The linters and the type checker as tests, so that `make test` is everything that CI asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
TIMEOUT_S = 110

CHECKS = {
    "style": [str(BIN / "ruff"), "check", "."],
    "format": [str(BIN / "ruff"), "format", "--check", "."],
    "who imports whom": [str(BIN / "lint-imports")],
    "types": [sys.executable, "-m", "mypy"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_sources_pass(check: str) -> None:
    answer = subprocess.run(
        CHECKS[check], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
