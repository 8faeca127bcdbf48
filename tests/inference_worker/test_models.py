"""Engines are opened as the settings say; llama.cpp is touched only where it is wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from inference_worker.config import WorkerSettings
from inference_worker.engine import EmbeddingSettings, EngineFailed, Pooling
from inference_worker.file_hash import file_sha256
from inference_worker.hardware import Hardware
from inference_worker.models import open_engine
from inference_worker.scripted_engine import scripted_answer
from replay.adapters import Adapter
from replay.request import SamplingParams

LLAMA = "inference_worker.llama_engine"


def ignore(name: str, progress: float) -> None:
    """Nobody asks for the progress."""


@pytest.fixture
def fake_llama(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Stands in for the adapter; keeps what it was asked to open."""
    opened: list[tuple[Any, Any]] = []
    module = ModuleType(LLAMA)
    module.LlamaSettings = lambda **fields: SimpleNamespace(**fields)  # type: ignore[attr-defined]

    def open_llama_engine(settings: Any, *, on_progress: Any) -> str:
        opened.append((settings, on_progress))
        return "engine"

    module.open_llama_engine = open_llama_engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, LLAMA, module)
    return opened


def test_a_scripted_engine_needs_no_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, LLAMA, None)  # type: ignore[arg-type]  # an import fails
    settings = WorkerSettings(engine="scripted", slots=3, context_tokens=100)
    engine = open_engine(settings, "m", Path("x"), ignore)
    try:
        model = engine.model
        assert (model.name, model.slots, model.context_tokens) == ("m", 3, 100)
        assert engine.free_slots == 3
    finally:
        engine.close()


def test_a_model_is_opened_with_the_workers_settings(
    fake_llama: list[tuple[Any, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    told: list[tuple[str, float]] = []
    settings = WorkerSettings(
        engine="llama",
        slots=2,
        threads=3,
        gpu_layers=4,
        context_tokens=512,
        kv_pool_tokens=768,
        context_shift=True,
        exact_answers=False,
        prefill_chunk_tokens=64,
    )
    engine: Any = open_engine(settings, "m", file, lambda name, part: told.append((name, part)))
    assert engine == "engine"
    ((asked, on_progress),) = fake_llama
    assert vars(asked) == {
        "path": file,
        "name": "m",
        "slots": 2,
        "context_tokens": 512,
        "threads": 3,
        "prefill_chunk_tokens": 64,
        "hardware": Hardware(gpu_layers=4),
        "kv_pool_tokens": 768,
        "context_shift": True,
        "exact_answers": False,
        "sha256": file_sha256(file),
        "chat_template": "",
        "embedding": EmbeddingSettings(None, batch_tokens=128, ubatch_tokens=512),
        "adapters": (),
    }
    on_progress(0.5)
    assert told == [("m", 0.5)]


@pytest.mark.parametrize(
    ("batch", "ubatch", "taken", "warnings"),
    [(128, 512, 128, 0), (512, 512, 512, 0), (513, 512, 512, 2), (2048, 64, 64, 2)],
)
def test_a_batch_beyond_the_micro_batch_is_warned_about_and_corrected(
    fake_llama: list[tuple[Any, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    batch: int,
    ubatch: int,
    taken: int,
    warnings: int,
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    settings = WorkerSettings(
        engine="llama",
        pooling="last",
        embedding_batch_tokens=batch,
        embedding_ubatch_tokens=ubatch,
    )
    open_engine(settings, "m", file, ignore)
    [(asked, _)] = fake_llama
    assert asked.embedding == EmbeddingSettings(Pooling.LAST, taken, ubatch)
    assert len(caplog.records) == warnings


def test_embeddings_can_be_switched_off(fake_llama: list[tuple[Any, Any]], tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    off = WorkerSettings(engine="llama", embeddings=False, embedding_batch_tokens=1024)
    open_engine(off, "m", file, ignore)
    assert fake_llama[0][0].embedding is None
    engine = open_engine(WorkerSettings(engine="scripted", embeddings=False), "m", file, ignore)
    assert engine.model.embedding is None
    engine.close()


@pytest.mark.usefixtures("fake_llama")
def test_a_file_that_is_not_there_is_the_operators_error(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed):
        open_engine(WorkerSettings(engine="llama"), "m", tmp_path / "none.gguf", ignore)


def adapters(tmp_path: Path, *contents: str) -> str:
    files = [tmp_path / f"{n}.gguf" for n in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_text(content)
    return ",".join(map(str, files))


def test_adapters_are_known_by_what_is_in_their_files(
    fake_llama: list[tuple[Any, Any]], tmp_path: Path
) -> None:
    lora = adapters(tmp_path, "one", "two") + ":0.5"
    settings = WorkerSettings(engine="llama", lora=lora)
    open_engine(settings, "m", tmp_path / "0.gguf", ignore)
    [(asked, _)] = fake_llama
    assert asked.adapters == tuple(
        Adapter(str(tmp_path / name), file_sha256(tmp_path / name), scale)
        for name, scale in (("0.gguf", 1.0), ("1.gguf", 0.5))
    )


@pytest.mark.usefixtures("fake_llama")
@pytest.mark.parametrize(
    ("contents", "more", "reason"),
    [
        (("one", "one"), "", "there twice"),
        (("one", "two", "three"), "", "more than 2 adapters at once: give the others a scale of 0"),
        ((), "/none.gguf", "/none.gguf cannot be read"),
    ],
)
def test_adapters_that_cannot_be_a_models_are_the_operators_error(
    tmp_path: Path, contents: tuple[str, ...], more: str, reason: str
) -> None:
    lora = adapters(tmp_path, *contents) + more
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(EngineFailed, match=reason):
        open_engine(WorkerSettings(engine="llama", lora=lora), "m", tmp_path / "m.gguf", ignore)


def test_a_script_says_something_else_with_an_adapter() -> None:
    engine = open_engine(WorkerSettings(engine="scripted", lora="/a.gguf"), "m", Path("x"), ignore)
    [adapter] = engine.model.adapters
    engine.close()
    prompt, sampling = (1, 2, 3), SamplingParams(seed=1)
    plain = scripted_answer(prompt, sampling)
    assert plain != scripted_answer(prompt, sampling, adapters=((adapter.sha256, 1.0),))


def test_a_template_of_the_operators_stands_in_for_the_models_own(
    fake_llama: list[tuple[Any, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }} é", encoding="utf-8")
    settings = WorkerSettings(engine="llama", chat_template_file=str(template))
    open_engine(settings, "m", file, ignore)
    ((asked, _),) = fake_llama
    assert asked.chat_template == "{{ messages[0].content }} é"
    scripted = settings.model_copy(update={"engine": "scripted"})
    engine = open_engine(scripted, "m", file, ignore)
    try:
        assert engine.prompt_text([{"role": "user", "content": "hi"}]) == "hi é"
    finally:
        engine.close()


def test_a_template_that_is_not_there_is_the_operators_error(tmp_path: Path) -> None:
    settings = WorkerSettings(engine="scripted", chat_template_file=str(tmp_path / "none"))
    with pytest.raises(EngineFailed, match="cannot be read"):
        open_engine(settings, "m", Path("x"), ignore)
