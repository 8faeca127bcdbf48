"""API keys: whose each is and what it may do. Nothing here knows HTTP.

In memory a key is its SHA-256 alone; in Redis, in logs and on the wire it is only ever its tenant.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

OPEN_TENANT = "default"
OWN_TENANT = "key-"
"""What the tenant of a key begins with that names none; no file may name one so."""

TENANT = re.compile(r"(?!key-)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OPTION = re.compile(r"\s+(\w+)=(\S*)$")
LOOK_S = 1.0
"""How often it is looked whether the file is another."""

logger = logging.getLogger(__name__)


class Scope(StrEnum):
    """What a key may do. ADMIN: what concerns all tenants."""

    READ = "read"
    STOP = "stop"
    GENERATE = "generate"
    ADMIN = "admin"


USUAL = frozenset({Scope.READ, Scope.STOP, Scope.GENERATE})
"""The scopes of a key that names none."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a credential opens: the sessions of one tenant, within its scopes."""

    tenant: str
    scopes: frozenset[Scope] = USUAL


OPEN = Access(OPEN_TENANT, frozenset(Scope))
"""Where there are no keys, everybody may do everything."""


class KeysInvalid(ValueError):
    """The file of keys cannot be used; the message names the line, never the key."""


def tenant_of_key(key: str) -> str:
    """The tenant that a key stands for which names none."""
    return OWN_TENANT + hashlib.sha256(key.encode()).hexdigest()[:16]


def parse_keys(text: str) -> dict[bytes, Access]:
    """What each key opens, by its hash: a key a line, then ``tenant=`` and ``scopes=`` if wanted.

    Raises KeysInvalid. Pure.
    """
    found: dict[bytes, Access] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, access = _entry(line.strip(), number)
        if _hash(key) in found:
            raise KeysInvalid(f"line {number}: this key stands further up")
        found[_hash(key)] = access
    if not found:
        raise KeysInvalid("there is no key in it")
    return found


def _entry(line: str, number: int) -> tuple[str, Access]:
    options: dict[str, str] = {}
    while option := OPTION.search(line):
        name, value = option.groups()
        if name not in ("tenant", "scopes") or name in options:
            raise KeysInvalid(f"line {number}: {name}= is unknown, or there twice")
        options[name] = value
        line = line[: option.start()]
    tenant = options.get("tenant", tenant_of_key(line))
    if "tenant" in options and not TENANT.fullmatch(tenant):
        raise KeysInvalid(
            f"line {number}: a tenant is 1 to 64 letters, digits and ._- and no {OWN_TENANT}..."
        )
    try:
        scopes = frozenset(map(Scope, options.get("scopes", ",".join(USUAL)).split(",")))
    except ValueError:
        raise KeysInvalid(f"line {number}: scopes are {', '.join(Scope)}") from None
    return line, Access(tenant, scopes)


def _hash(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


class Keyring:
    """The keys of this node as they are at the moment. Owned by the event loop."""

    def __init__(self, plain: Iterable[str] = (), file: Path | None = None) -> None:
        """``plain`` keys name no tenant; the file's word on one of them counts.

        Raises KeysInvalid.
        """
        self._plain = {_hash(key): Access(tenant_of_key(key)) for key in plain}
        self._file = file
        self._seen: object = None
        self._known: Mapping[bytes, Access] = self._plain
        self._load()

    def access(self, credential: bytes) -> Access | None:
        """What the credential opens; compares with every key, so that time tells nothing."""
        if not self._known:
            return OPEN
        given, found = _hash(credential), None
        for known, access in self._known.items():
            if hmac.compare_digest(given, known):
                found = access
        return found

    def reload(self) -> None:
        """Reads the file anew; one that cannot be used leaves everything as it was, and says so."""
        try:
            self._load()
        except KeysInvalid as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("read %d API keys", len(self._known))

    async def watch(self) -> NoReturn:
        """Reads the file whenever it is another, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._look() != self._seen:
                self.reload()

    def _load(self) -> None:
        if self._file is None:
            return
        self._seen = self._look()  # first: what is written meanwhile is seen at the next look
        try:
            text = self._file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise KeysInvalid(f"{self._file}: {reason}") from None
        try:
            self._known = {**self._plain, **parse_keys(text)}
        except KeysInvalid as error:
            raise KeysInvalid(f"{self._file}: {error}") from None

    def _look(self) -> object:
        """What differs when the file is another, also where a link leads elsewhere."""
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError as error:
            return error.errno
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
