"""Saved slots as files of one folder.

A file is a line of JSON, four bytes a token, then what the model wrote. It has a checksum, since
llama.cpp trusts what it reads. Whoever reads the folder reads prompts: files are their owner's
alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, BinaryIO

from inference_worker.errors import SavedUnfit
from inference_worker.saved_slot import SavedSlot
from replay.adapters import pairs
from replay.records import PROMPT_TOKEN, pack_prompt, unpack_prompt

FORMAT = "replay-cluster slot 1"
HEAD_BYTES_MAX = 64 * 1024

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
OWNERS_ALONE = 0o600


class SlotFiles:
    """Reads and writes block, for seconds where a disk is slow. Names are ``is_file_name``'s."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, saved: SavedSlot) -> int:
        """Writes a file that is whole from the moment at which it has its name; returns its size in
        bytes. Raises OSError, and then leaves nothing behind."""
        part = self._folder / f".{name}.{secrets.token_hex(4)}.part"
        try:
            with os.fdopen(os.open(part, NEW, OWNERS_ALONE), "wb") as file:
                size = _write(file, saved)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._folder / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return size

    def read(self, name: str) -> tuple[SavedSlot, int]:
        """What was written, and the file's size in bytes. Raises SavedUnfit and OSError."""
        path = self._folder / name
        if not path.is_file():  # whatever else it is, a pipe say, is not waited for
            raise SavedUnfit("there is no such file")
        with path.open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)


def _write(file: BinaryIO, saved: SavedSlot) -> int:
    tokens = pack_prompt(saved.tokens)
    head = {
        "format": FORMAT,
        "made_by": dict(saved.made_by),
        "adapters": saved.adapters,
        "tokens": len(saved.tokens),
        "data_bytes": len(saved.data),
        "sha256": _digest(tokens, saved.data),
    }
    return sum(file.write(part) for part in (json.dumps(head).encode() + b"\n", tokens, saved.data))


def _read(file: BinaryIO, size: int) -> tuple[SavedSlot, int]:
    head = _head(file.readline(HEAD_BYTES_MAX))
    token_bytes, data_bytes = PROMPT_TOKEN.size * head["tokens"], head["data_bytes"]
    if size != file.tell() + token_bytes + data_bytes:
        raise SavedUnfit("the file is not as long as it was written")
    tokens, data = file.read(token_bytes), file.read(data_bytes)
    if _digest(tokens, data) != head["sha256"]:
        raise SavedUnfit("the file is damaged")
    return SavedSlot(head["made_by"], unpack_prompt(tokens), data, head["adapters"]), size


def _head(line: bytes) -> dict[str, Any]:
    try:
        head: dict[str, Any] = {"adapters": (), **json.loads(line)}
        head["adapters"] = pairs(head["adapters"])
        is_sound = (
            head["format"] == FORMAT
            and isinstance(head["made_by"], dict)
            and all(
                isinstance(head[key], int) and head[key] >= 0 for key in ("tokens", "data_bytes")
            )
            and isinstance(head["sha256"], str)
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        is_sound = False
    if not is_sound:
        raise SavedUnfit("the file is no saved slot of this version")
    return head


def _digest(tokens: bytes, data: bytes | memoryview) -> str:
    digest = hashlib.sha256(tokens)
    digest.update(data)
    return digest.hexdigest()
