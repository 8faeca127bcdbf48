"""The images build, and hold what their program needs and no more."""

import subprocess

RUN_LIMIT_S = 60


def inside(image: str, *command: str) -> str:
    """What a command prints in a new container of the image, without a network."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", image, *command],
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_node_starts_without_the_engine(images: dict[str, str]) -> None:
    program = "import api.app, importlib.util as u; print(u.find_spec('llama_cpp'))"
    assert inside(images["REPLAY_API_IMAGE"], "python", "-c", program).strip() == "None"


def test_a_node_carries_the_page(images: dict[str, str]) -> None:
    assert "index.html" in inside(images["REPLAY_API_IMAGE"], "ls", "webui/dist")


def test_a_worker_brings_its_own_openmp(images: dict[str, str]) -> None:
    program = "import llama_cpp; print(open('/proc/self/maps').read())"
    loaded = inside(images["REPLAY_WORKER_IMAGE"], "python", "-c", program)
    assert "/opt/venv/lib/" in loaded
    assert [line for line in loaded.splitlines() if "libgomp" in line]
    assert not [line for line in loaded.splitlines() if "libgomp" in line and "/venv/" not in line]


def test_neither_runs_as_root(images: dict[str, str]) -> None:
    assert {inside(image, "id", "-u").strip() for image in images.values()} == {"10001"}


def test_each_holds_only_its_own_package(images: dict[str, str]) -> None:
    api = inside(images["REPLAY_API_IMAGE"], "ls", "/app").split()
    worker = inside(images["REPLAY_WORKER_IMAGE"], "ls", "/app").split()
    assert ("api" in api, "inference_worker" in api) == (True, False)
    assert ("api" in worker, "inference_worker" in worker) == (False, True)


def test_replayctl_is_at_hand(images: dict[str, str]) -> None:
    assert "sessions" in inside(images["REPLAY_API_IMAGE"], "replayctl", "--help")
