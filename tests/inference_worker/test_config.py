"""The worker's settings: from the environment, and wrong ones refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from inference_worker.config import WorkerSettings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("REPLAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_need_no_environment() -> None:
    settings = WorkerSettings()
    assert (settings.slots, settings.context_tokens, settings.lease_s) == (8, 8192, 4.0)
    assert (settings.engine, settings.queue_url) == ("llama", settings.redis_url)


def test_every_setting_is_read_with_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLAY_REDIS_URL", "redis://a")
    monkeypatch.setenv("REPLAY_QUEUE_REDIS_URL", "redis://b")
    monkeypatch.setenv("REPLAY_SLOTS", "3")
    monkeypatch.setenv("REPLAY_LEASE_S", "0.5")
    monkeypatch.setenv("SLOTS", "4")
    monkeypatch.setenv("REPLAY_OF_ANOTHER_PROCESS", "x")
    settings = WorkerSettings()
    assert (settings.redis_url, settings.queue_url) == ("redis://a", "redis://b")
    assert (settings.slots, settings.lease_s) == (3, 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slots", "0"),
        ("slots", "257"),
        ("context_tokens", "63"),
        ("lease_s", "0"),
        ("window_bytes", "1"),
        ("prefill_chunk_tokens", "-1"),
        ("engine", "other"),
        ("drain_s", "-1"),
        ("threads", "x"),
    ],
)
def test_an_impossible_value_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"REPLAY_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        WorkerSettings()


def test_a_worker_without_a_name_is_named_by_host_and_process() -> None:
    assert WorkerSettings(worker="w").id == "w"
    assert WorkerSettings().id.endswith(f"-{os.getpid()}")


@pytest.mark.parametrize(
    ("models", "files"),
    [
        ("m=/a/b.gguf", {"m": "/a/b.gguf"}),
        ("/a/b.gguf", {"b": "/a/b.gguf"}),
        (" org/m:Q4=/a=b.gguf , c.gguf,", {"org/m:Q4": "/a=b.gguf", "c": "c.gguf"}),
        ("big=/m-00001-of-00002.gguf", {"big": "/m-00001-of-00002.gguf"}),
    ],
)
def test_models_are_named_or_take_their_files_name(models: str, files: dict[str, str]) -> None:
    found = WorkerSettings(models=models).model_files()
    assert found == {name: Path(path) for name, path in files.items()}


@pytest.mark.parametrize(
    ("lora", "files"),
    [
        ("", []),
        ("/a.gguf, m=/b.gguf:0.5,", [("/a.gguf", 1.0), ("/b.gguf", 0.5)]),
        ("m=/a.gguf:-2,n=/b.gguf", [("/a.gguf", -2.0)]),
    ],
)
def test_adapters_are_for_all_models_or_the_one_that_is_named(
    lora: str, files: list[tuple[str, float]]
) -> None:
    settings = WorkerSettings(models="m=/m.gguf,n=/n.gguf", lora=lora)
    assert [(str(path), scale) for path, scale in settings.adapter_files("m")] == files
    assert list(settings.model_files()) == ["m", "n"]


@pytest.mark.parametrize("entry", ["/a.gguf:much", "/a.gguf:nan", "/a.gguf:", "m=:1", ":1"])
def test_an_adapter_without_a_file_or_a_scale_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=f"REPLAY_LORA={entry}: expected"):
        WorkerSettings(lora=entry)


def test_an_adapter_of_a_model_that_is_not_served_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no model o"):
        WorkerSettings(models="m=/m.gguf", lora="o=/a.gguf").model_files()


def test_without_a_list_every_model_of_the_folder_is_served(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf", "c.gguf.part", "README"):
        (tmp_path / name).touch()
    found = WorkerSettings(models_dir=tmp_path).model_files()
    assert list(found.items()) == [("a", tmp_path / "a.gguf"), ("b", tmp_path / "b.gguf")]


def test_a_worker_without_any_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="REPLAY_MODELS"):
        WorkerSettings(models_dir=tmp_path / "missing").model_files()
    scripted = WorkerSettings(models_dir=tmp_path, engine="scripted").model_files()
    assert list(scripted) == ["scripted"]


def test_slots_are_saved_to_a_folder_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert WorkerSettings().slot_files() is None
    monkeypatch.setenv("REPLAY_SLOT_SAVE_PATH", str(tmp_path))
    assert WorkerSettings().slot_files() is not None
    monkeypatch.setenv("REPLAY_SLOT_SAVE_PATH", str(tmp_path / "missing"))
    with pytest.raises(ValidationError, match="is no folder"):
        WorkerSettings()
