"""What the tests in containers share: an engine that answers, and the images, built once.

They name images and never ask where those come from. Without a registry, deploy/offline/ puts
images of the same names there and BASE_IMAGE names the one that has another. It must not know
how the engine was started.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE_IMAGE = os.environ.get("BASE_IMAGE", "python:3.12-slim")
REDIS_IMAGE = os.environ.get("REDIS_IMAGE", "redis:7")
PULL_LIMIT_S = 300
BUILD_LIMIT_S = 900

# testcontainers reads these once, when it is imported. Its cleaner would be one more image to pull,
# and every container here ends with a block; a virtual machine that carries a /.dockerenv would be
# taken for a container, unless told that ports are published on this host; and (its spelling) the
# seconds between two looks at a server that starts.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
os.environ.setdefault("TC_POOLING_INTERVAL", "0.1")

IMAGES = {"REPLAY_API_IMAGE": "replay-api:test", "REPLAY_WORKER_IMAGE": "replay-worker:test"}


def succeeds(*command: str, limit_s: float = 30) -> bool:
    """Whether a command ends well, and in time. A program that is not there does not."""
    try:
        return subprocess.run(command, capture_output=True, timeout=limit_s).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def present(image: str) -> bool:
    """Whether an image is here, or could be pulled just now."""
    return succeeds("docker", "image", "inspect", image) or succeeds(
        "docker", "pull", "--quiet", image, limit_s=PULL_LIMIT_S
    )


def need(met: bool, reason: str) -> None:
    """Skips where a need is not met; where containers must run, that is a failure."""
    if met:
        return
    if os.environ.get("REPLAY_REQUIRE_DOCKER") == "1":
        pytest.fail(f"REPLAY_REQUIRE_DOCKER=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def need_image(image: str) -> None:
    """`need` of an image."""
    need(present(image), f"{image} cannot be pulled; deploy/offline/docker_up.sh helps")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs an engine, and may be the one that pays for a build."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.timeout(BUILD_LIMIT_S))


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """A Docker engine, and the image of Redis that all of these tests start."""
    need(succeeds("docker", "version"), "no Docker engine answers")
    need_image(REDIS_IMAGE)


def run_compose(*arguments: str, limit_s: float = 120, **settings: str) -> str:
    """Runs `docker compose` on compose.yaml; returns what it prints.

    `settings` go into its environment. Raises CalledProcessError, with what it wrote as a note.
    """
    environment = {**os.environ, "BASE_IMAGE": BASE_IMAGE, **IMAGES, **settings}
    command = ["docker", "compose", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit_s
    )
    if done.returncode != 0:
        error = subprocess.CalledProcessError(done.returncode, command)
        error.add_note(done.stdout[-4000:] + done.stderr[-4000:])
        raise error
    return done.stdout


@pytest.fixture(scope="session")
def compose() -> Callable[..., str]:
    """`run_compose`, for the tests to call."""
    return run_compose


@pytest.fixture(scope="session")
def images(engine: None, compose: Callable[..., str]) -> dict[str, str]:
    """The image names by the setting that names them, built from this checkout."""
    need(succeeds("docker", "compose", "version"), "there is no docker compose")
    need_image(BASE_IMAGE)
    if not list((ROOT / "deploy" / "wheels").glob("*.whl")):
        subprocess.run(
            [sys.executable, "-m", "deploy.llama_wheel"],
            cwd=ROOT,
            check=True,
            timeout=BUILD_LIMIT_S,
        )
    compose("build", "api", "worker", limit_s=BUILD_LIMIT_S)
    return IMAGES
