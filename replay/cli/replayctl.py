"""The tree of commands, and the console script. Knows no Redis."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import TextIOWrapper

import typer

from replay.cli import members, sessions, tailing

EXIT_CODES = "Exit codes: 0 done, 1 not found, 2 wrong usage, 3 Redis unavailable."


def _group(help_text: str, epilog: str | None = None) -> typer.Typer:
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,  # they show local variables, and so users' data
        epilog=epilog,
    )


def build() -> typer.Typer:
    """The whole command line."""
    app = _group(
        "Looks at a replay-cluster, and stops sessions, straight from Redis.\n\n"
        "Never shows an answer's text or a request unless an option asks for it.",
        EXIT_CODES,
    )
    nouns = {
        "sessions": _group("Generations: list, show, tail and stop them."),
        "workers": _group("The inference workers that live."),
        "nodes": _group("The API nodes that live."),
    }
    for name, noun in nouns.items():
        noun.callback()(_nothing)  # else typer drops the verb of a noun that has only one
        app.add_typer(noun, name=name)
    commands: list[tuple[str, str, Callable[..., None], str]] = [
        ("sessions", "ls", sessions.ls, "replayctl sessions ls --state running --state queued"),
        ("sessions", "show", sessions.show, "replayctl sessions show my-chat"),
        ("sessions", "tail", tailing.tail, "replayctl sessions tail my-chat --from 4096"),
        ("sessions", "stop", sessions.stop, "replayctl sessions stop my-chat"),
        ("workers", "ls", members.workers, "replayctl workers ls"),
        ("nodes", "ls", members.nodes, "replayctl nodes ls --json"),
    ]
    for noun_name, verb, command, example in commands:
        nouns[noun_name].command(verb, epilog=f"Example: {example}")(command)
    return app


def _nothing() -> None:
    """A noun does nothing by itself."""


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without Unicode gets escapes, no error
            stream.reconfigure(errors="backslashreplace")
    build()(prog_name="replayctl")
