"""cluster.json and the lock of the state folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.local import state_file
from deploy.local.child import Child
from deploy.local.commands import Command
from deploy.local.errors import LaunchFailed


def child(name: str, tier: int, url: str | None = None) -> Child:
    return Child(Command(name=name, argv=("true",), log=Path("log"), tier=tier, url=url))


def test_the_state_tells_who_is_a_node_a_worker_and_redis(tmp_path: Path) -> None:
    children = [child("redis", 0, "redis://r"), child("w", 1), child("n", 1, "http://n")]
    state = state_file.describe(children, front="http://f", redis_url="redis://r", ready=True)
    state_file.write_state(tmp_path, state)
    assert state_file.read_state(tmp_path) == {
        "ready": True,
        "launcher": os.getpid(),
        "front": "http://f",
        "nodes": [{"name": "n", "url": "http://n", "pid": None}],
        "workers": [{"name": "w", "pid": None}],
        "redis": {"url": "redis://r", "pid": None},
    }
    assert [file.name for file in tmp_path.iterdir()] == ["cluster.json"]


def test_no_state_and_a_broken_one_are_empty(tmp_path: Path) -> None:
    assert state_file.read_state(tmp_path) == {}
    state_file.state_file(tmp_path).write_text("{")
    assert state_file.read_state(tmp_path) == {}


@pytest.mark.parametrize(
    ("url", "port"), [("redis://127.0.0.1:6400", 6400), ("redis://there:6379", 0), ("", 0)]
)
def test_only_a_port_of_this_machine_is_remembered(tmp_path: Path, url: str, port: int) -> None:
    state_file.write_state(tmp_path, {"redis": {"url": url, "pid": None}})
    assert state_file.redis_port_before(tmp_path) == port


def test_a_folder_belongs_to_one_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "LOCK_WAIT_S", 0.0)
    state_file.write_state(tmp_path, {"launcher": 4711})
    refused = pytest.raises(LaunchFailed, match=r"pid 4711.*another --state-dir")
    with state_file.locked_state(tmp_path), refused, state_file.locked_state(tmp_path):
        pass
    with state_file.locked_state(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = pytest.raises(LaunchFailed, match="the state folder cannot be used")
    with refused, state_file.locked_state(tmp_path / "file" / "state"):
        pass
