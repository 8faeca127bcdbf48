"""The Lua scripts beside this module, ready to be called by their digest.

EVALSHA is content-addressed: an older process never calls a newer script by mistake. After a
restart or a failover Redis may have forgotten a script (NOSCRIPT); the caller then repeats that one
call with the script's text, which is safe because the script did not run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from replay import keys

_PRODUCER_SCRIPTS = {"append", "close"}


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its name, text and digest."""

    name: str
    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a script."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...]

    def command(self) -> tuple[str | bytes | int, ...]:
        """The words of the Redis command."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def loading(self) -> tuple[str | bytes | int, ...]:
        """The same for a server that may not know the script; it does from then on."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


@cache
def script(name: str) -> Script:
    """The script of that name, with what it shares with others put before it."""
    shebang, body = _source(name).split("\n", 1)
    shared = [f"local CONTROL = '{keys.control('')}'", _source("common")]
    if name in _PRODUCER_SCRIPTS:
        shared.append(_source("producer"))
    text = "\n".join([shebang, *shared, body])
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def ms(seconds: float) -> int:
    """Seconds as a script takes them."""
    return round(seconds * 1000)


def flat(pairs: Mapping[str, str | bytes]) -> list[str | bytes]:
    """A hash's fields as a script takes them."""
    return [word for pair in pairs.items() for word in pair]


def _source(name: str) -> str:
    return resources.files("replay").joinpath("scripts", f"{name}.lua").read_text("utf-8")
