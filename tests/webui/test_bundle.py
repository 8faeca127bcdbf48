"""The committed bundle of the chat page is the one its sources build. Needs no Node.

Must not know how the bundle is built: it compares hashes with webui/dist/BUILD.json, nothing else.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

WEBUI = Path(__file__).resolve().parents[2] / "webui"
DIST = WEBUI / "dist"
SOURCE_FILES = (
    "index.html",
    "package.json",
    "svelte.config.js",
    "tsconfig.json",
    "vite.config.ts",
)
SOURCE_FOLDERS = ("public", "scripts", "src")
REMEDY = "run `make webui` and commit webui/dist"


@pytest.fixture(scope="module")
def stamp() -> dict[str, Any]:
    """What the build wrote down about itself."""
    loaded: dict[str, Any] = json.loads((DIST / "BUILD.json").read_text(encoding="utf-8"))
    return loaded


def hashes(paths: list[Path]) -> dict[str, str]:
    """Map each path, relative to webui/, to the SHA-256 of its bytes."""
    return {
        path.relative_to(WEBUI).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def files_under(folder: Path) -> list[Path]:
    """List every file below a folder, the stamp itself left out."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "BUILD.json"]


def test_the_bundle_was_built_from_these_sources(stamp: dict[str, Any]) -> None:
    sources = [WEBUI / name for name in SOURCE_FILES]
    for folder in SOURCE_FOLDERS:
        sources += files_under(WEBUI / folder)
    assert hashes(sources) == stamp["sources"], REMEDY


def test_the_bundle_was_built_with_this_lockfile(stamp: dict[str, Any]) -> None:
    lockfile = (WEBUI / "package-lock.json").read_bytes()
    assert hashlib.sha256(lockfile).hexdigest() == stamp["lockfile"], REMEDY


def test_the_bundle_holds_the_files_that_were_built(stamp: dict[str, Any]) -> None:
    assert hashes(files_under(DIST)) == stamp["files"], REMEDY


def test_the_page_links_only_files_of_the_bundle() -> None:
    page = (DIST / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        assert (DIST / link).is_file(), f"{link} is not in the bundle"


def test_the_page_needs_no_inline_script() -> None:
    page = (DIST / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"\son\w+=", page) == []


def test_the_lockfile_names_no_registry() -> None:
    lock = json.loads((WEBUI / "package-lock.json").read_text(encoding="utf-8"))
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
