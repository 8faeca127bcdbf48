"""``python -m replay.cli``: the same as ``replayctl``."""

from __future__ import annotations

from replay.cli import main

main()
