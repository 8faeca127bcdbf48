"""The image for GPUs, which needs a registry to be built: that it says what the other one says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def stages(name: str) -> dict[str, list[str]]:
    """The instructions of each stage of a Dockerfile, each in one line."""
    text = (DEPLOY / name).read_text().replace("\\\n", "")
    found: dict[str, list[str]] = {}
    instructions: list[str] = []
    for line in text.splitlines():
        if line.startswith("FROM "):
            instructions = found.setdefault(line.rpartition(" AS ")[2], [])
        elif line and not line.startswith("#"):
            instructions.append(line)
    return found


def test_a_worker_on_a_gpu_runs_as_any_other() -> None:
    [_, cuda], worker = stages("Dockerfile.cuda").values(), stages("Dockerfile")["worker"]
    assert cuda[-7:] == worker[-7:]


def test_it_copies_only_what_the_build_is_given() -> None:
    given = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for instructions in stages("Dockerfile.cuda").values():
        for line in instructions:
            if line.startswith("COPY ") and "--from=" not in line:
                source = line.split()[1].removesuffix("/")
                assert source in given and (ROOT / source).exists(), line


@pytest.mark.docker
def test_compose_gives_the_worker_the_gpus() -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker compose")
    command = ["docker", "compose", "-f", "compose.yaml", "-f", "compose.gpu.yaml"]
    shown = subprocess.run(
        [*command, "config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    worker = json.loads(shown.stdout)["services"]["worker"]
    assert worker["build"]["dockerfile"] == "deploy/Dockerfile.cuda"
    assert worker["build"]["target"] in stages("Dockerfile.cuda")
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
