"""Orders about slots at their worker: each is carried out or refused, and none ends the worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_recorder import Recorder, recording

from inference_worker.engine import EngineFailed, SequenceSpec
from inference_worker.scripted_engine import open_scripted_engine
from inference_worker.slot_files import SlotFiles
from inference_worker.slot_orders import carried_out
from replay.prepare import Refused, Result, Unknown
from replay.request import SamplingParams
from replay.slot_order import SlotChanged, SlotOrder

HELD_TOKENS = 256


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Two slots, of which the first holds two chunks."""
    with recording(open_scripted_engine(slots=2, tokens_per_s=0)) as recorder:
        recorder.run(SequenceSpec("one", (65,) * 300, SamplingParams(seed=1)))
        assert recorder.engine.held_tokens == (HELD_TOKENS, 0)
        yield recorder


@pytest.fixture
def files(tmp_path: Path) -> SlotFiles:
    return SlotFiles(tmp_path)


def ordered(
    recorder: Recorder, files: SlotFiles | None, action: str, slot: int = 0, name: str = "x"
) -> Any:
    return carried_out(recorder.engine, SlotOrder("w", slot, action, name), files)


def refused(result: Result) -> tuple[str, str]:
    assert isinstance(result, Refused)
    return result.kind, result.message


def test_a_slot_is_saved_erased_and_restored(recorder: Recorder, files: SlotFiles) -> None:
    saved = ordered(recorder, files, "save")
    assert (saved.token_count, saved.file_bytes > 4 * HELD_TOKENS) == (HELD_TOKENS, True)
    assert saved.took_ms > 0
    assert ordered(recorder, files, "erase", name="").token_count == HELD_TOKENS
    assert recorder.engine.held_tokens == (0, 0)
    restored = ordered(recorder, files, "restore", slot=1)
    assert isinstance(restored, SlotChanged)
    assert (restored.token_count, restored.file_bytes) == (HELD_TOKENS, saved.file_bytes)
    assert recorder.engine.held_tokens == (0, HELD_TOKENS)


@pytest.mark.parametrize("action", ["save", "restore", "erase"])
def test_without_a_folder_nothing_is_done(recorder: Recorder, action: str) -> None:
    kind, message = refused(ordered(recorder, None, action))
    assert kind == "unsupported"
    assert message.startswith(
        "This server does not support slots action. Start it with `--slot-save-path`"
    )


@pytest.mark.parametrize("action", ["save", "restore", "erase"])
def test_a_slot_in_use_is_busy(recorder: Recorder, files: SlotFiles, action: str) -> None:
    ordered(recorder, files, "save")
    for name in ("a", "b"):
        prompt = tuple(
            recorder.engine.tokenize(
                "[[tokens=100000 rate=10]]", add_special=True, parse_special=True
            )
        )
        recorder.engine.submit(SequenceSpec(name, prompt, SamplingParams(seed=1)))
    assert refused(ordered(recorder, files, action))[0] == "busy"


def test_what_cannot_be_is_refused(
    recorder: Recorder, files: SlotFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(ordered(recorder, files, "save", slot=2))[0] == "invalid"
    assert refused(ordered(recorder, files, "save", slot=-1))[0] == "invalid"
    assert refused(ordered(recorder, files, "save", name="../x"))[1] == "Invalid filename"
    assert refused(ordered(recorder, files, "restore"))[1] == "there is no such file"
    (tmp_path / "x").write_bytes(b"something else")
    assert refused(ordered(recorder, files, "restore"))[0] == "invalid"
    assert refused(ordered(recorder, files, "paint"))[0] == "unknown"
    assert refused(carried_out(recorder.engine, Unknown("paint"), files))[0] == "unknown"
    assert os.listdir(tmp_path) == ["x"]
    assert recorder.engine.held_tokens == (HELD_TOKENS, 0)


def test_a_disk_or_an_engine_that_fails_is_told_as_ours(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = SlotFiles(tmp_path / "gone")
    kind, message = refused(ordered(recorder, gone, "save"))
    assert (kind, "No such file" in message, str(tmp_path) in message) == ("engine", True, False)

    def fail(slot: int) -> Any:
        raise EngineFailed("the KV cache cannot be copied")

    monkeypatch.setattr(recorder.engine, "save_slot", fail)
    assert refused(ordered(recorder, gone, "save")) == ("engine", "the KV cache cannot be copied")
