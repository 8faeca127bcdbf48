"""Saved slots on a disk: whole or not there, and read only as they were written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from inference_worker.errors import SavedUnfit
from inference_worker.saved_slot import SavedSlot
from inference_worker.slot_files import SlotFiles

SAVED = SavedSlot(
    {"model": "sha", "chunk": "2 tokens"},
    (1, 2**31, 3, 4),
    bytes(range(256)) * 9,
    adapters=(("A", 0.1), ("B", -2.0)),
)


@pytest.fixture
def files(tmp_path: Path) -> SlotFiles:
    made = SlotFiles(tmp_path)
    made.write("one.bin", SAVED)
    return made


def test_what_is_written_is_read(files: SlotFiles, tmp_path: Path) -> None:
    size = (tmp_path / "one.bin").stat().st_size
    assert files.read("one.bin") == (SAVED, size)
    assert files.write("one.bin", SAVED) == size
    nothing = SavedSlot({}, (), b"")
    files.write("nothing", nothing)
    assert files.read("nothing")[0] == nothing


def test_nobody_else_may_read_it_and_nothing_else_is_there(
    files: SlotFiles, tmp_path: Path
) -> None:
    assert os.listdir(tmp_path) == ["one.bin"]
    assert (tmp_path / "one.bin").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left_bytes", [0, 10, 200, -1])
def test_a_file_that_was_cut_is_refused(files: SlotFiles, tmp_path: Path, left_bytes: int) -> None:
    path = tmp_path / "one.bin"
    path.write_bytes(path.read_bytes()[:left_bytes])
    with pytest.raises(SavedUnfit):
        files.read("one.bin")


@pytest.mark.parametrize("place", [-1, -256 * 9 - 1])
def test_a_byte_that_was_changed_is_seen(files: SlotFiles, tmp_path: Path, place: int) -> None:
    path = tmp_path / "one.bin"
    changed = bytearray(path.read_bytes())
    changed[place] ^= 1
    path.write_bytes(changed)
    with pytest.raises(SavedUnfit, match="damaged"):
        files.read("one.bin")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "replay-cluster slot 2"},
        {"tokens": -1},
        {"tokens": "4"},
        {"tokens": None},
        {"data_bytes": 10**18},
        {"made_by": "me"},
        {"sha256": 7},
    ],
    ids=str,
)
def test_a_head_that_says_something_else_is_refused(
    files: SlotFiles, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "one.bin"
    head, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps({**json.loads(head), **change}).encode() + b"\n" + rest)
    with pytest.raises(SavedUnfit):
        files.read("one.bin")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]\n", b"\xff\n", b"[" * 100_000, b"GGUF" * 99])
def test_any_other_file_is_refused(files: SlotFiles, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(SavedUnfit, match="no saved slot"):
        files.read("other")


def test_what_is_no_file_is_not_waited_for(files: SlotFiles, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "missing"):
        with pytest.raises(SavedUnfit, match="no such file"):
            files.read(name)


def test_a_full_disk_leaves_what_was_there(
    files: SlotFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write("one.bin", SavedSlot({}, (), b""))
    monkeypatch.undo()
    assert files.read("one.bin")[0] == SAVED
    assert os.listdir(tmp_path) == ["one.bin"]
