"""Builds the wheel that the worker's image installs: `python -m deploy.llama_wheel`.

A slim base image has neither a compiler nor the OpenMP runtime. So the wheel is built outside the
image, where both are, and carries the runtime beside its own libraries: their run path is $ORIGIN,
so the loader finds it there. It must not know the image, nor what is served with it.
"""

import base64
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

PACKAGE = "llama-cpp-python"
LIBRARIES = "llama_cpp/lib/"
OPENMP_USER = LIBRARIES + "libggml-base.so"
WHEELS = Path(__file__).parent / "wheels"
BUILD_LIMIT_S = 1200


def built_wheel(folder: Path) -> Path:
    """The wheel of the installed version, in `folder`: out of pip's cache, else compiled (minutes).

    Raises subprocess.CalledProcessError or TimeoutExpired when pip fails; pip has said why.
    """
    pinned = f"{PACKAGE}=={version(PACKAGE)}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-w",
        str(folder),
        pinned,
    ]
    subprocess.run(command, check=True, timeout=BUILD_LIMIT_S)
    return next(folder.glob("*.whl"))


def openmp_runtime(wheel: Path) -> Path | None:
    """The OpenMP library that the wheel's own libraries load here; None when they load none."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        library = archive.extract(OPENMP_USER, folder)
        loaded = subprocess.run(["ldd", library], check=True, capture_output=True, text=True)
    found = re.search(r"lib(?:gomp|omp)\.so\S* => (/\S+)", loaded.stdout)
    return Path(found[1]) if found else None


def record_line(name: str, content: bytes) -> str:
    """One line of a wheel's RECORD for a file of that name and content, with its newline."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def with_library(wheel: Path, library: Path, target: Path) -> None:
    """Writes at `target` the wheel with `library` among its own, and its RECORD to match."""
    name, content = LIBRARIES + library.name, library.read_bytes()
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as result,
    ):
        for entry in source.infolist():
            body = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                body += record_line(name, content).encode()
            result.writestr(entry, body, zipfile.ZIP_DEFLATED)
        result.writestr(name, content)


def main() -> None:
    """Puts the one wheel into deploy/wheels/, in place of any that was there."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = built_wheel(Path(folder))
        runtime = openmp_runtime(wheel)
        for old in WHEELS.glob("*.whl"):
            old.unlink()
        target = WHEELS / wheel.name
        if runtime is None:
            target.write_bytes(wheel.read_bytes())
        else:
            with_library(wheel, runtime, target)
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB, with {runtime or 'no OpenMP'}")


if __name__ == "__main__":
    main()
