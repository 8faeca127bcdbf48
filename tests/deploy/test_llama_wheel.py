"""The wheel for the worker's image, on a small wheel of our own making."""

import hashlib
import zipfile
from base64 import urlsafe_b64decode
from pathlib import Path

import pytest

from deploy import llama_wheel

RECORD = "llama_cpp_python-1.dist-info/RECORD"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "llama_cpp_python-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write("/bin/true", llama_wheel.OPENMP_USER)
        archive.writestr(RECORD, f"{RECORD},,\n")
    return path


def test_the_library_lies_beside_those_that_load_it(wheel: Path, tmp_path: Path) -> None:
    library = tmp_path / "libgomp.so.1"
    library.write_bytes(b"machine code")
    target = tmp_path / "target.whl"
    llama_wheel.with_library(wheel, library, target)
    with zipfile.ZipFile(target) as archive:
        assert archive.read("llama_cpp/lib/libgomp.so.1") == b"machine code"
        assert archive.read(llama_wheel.OPENMP_USER) == Path("/bin/true").read_bytes()
        record = archive.read(RECORD).decode()
    assert record.startswith(f"{RECORD},,\n")
    assert record.endswith(llama_wheel.record_line("llama_cpp/lib/libgomp.so.1", b"machine code"))


def test_a_record_line_has_name_digest_and_size() -> None:
    name, digest, size = llama_wheel.record_line("a/b", b"12345").split(",")
    kind, _, text = digest.partition("=")
    assert (name, kind, size) == ("a/b", "sha256", "5\n")
    assert urlsafe_b64decode(text + "=") == hashlib.sha256(b"12345").digest()


def test_libraries_without_openmp_need_no_runtime(wheel: Path) -> None:
    assert llama_wheel.openmp_runtime(wheel) is None
