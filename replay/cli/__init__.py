"""``replayctl``: sessions, workers and nodes, for the operator, straight from Redis.

An answer's text and a user's prompt are shown only where an option asks for them by name. This is
the one part of ``replay`` that may use typer and rich.
"""

from __future__ import annotations

from replay.cli.replayctl import main

__all__ = ["main"]
