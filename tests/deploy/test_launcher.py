"""The launcher as a process, with a real Redis and stubs for nodes and workers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from deploy.bootstrap import ROOT
from deploy.local import launcher
from deploy.local.arguments import parse
from deploy.local.cluster import Cluster, ClusterFailed
from deploy.local.ports import free_block
from deploy.local.supervisor import REDIS_GRACE_S

STUBS = (sys.executable, str(Path(__file__).with_name("stub_cluster.py")))
WAIT_S = 20.0


def made(state_dir: Path, *arguments: str, **environment: str) -> Cluster:
    """A cluster of stubs, not yet started."""
    return Cluster(
        state_dir, *arguments, environment={"PYTHONPATH": str(ROOT), **environment}, launcher=STUBS
    )


@contextmanager
def stub_cluster(state_dir: Path, *arguments: str, **environment: str) -> Iterator[Cluster]:
    with made(state_dir, *arguments, **environment) as cluster:
        yield cluster


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true within WAIT_S."""
    until_s = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)  # a look every now and then, not a wait for time to pass
    return True


def lives(pid: int | None) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: Iterable[int | None]) -> bool:
    return not any(lives(pid) for pid in pids if pid)


def test_all_start_and_a_stop_leaves_none_within_five_seconds(tmp_path: Path) -> None:
    with stub_cluster(tmp_path) as cluster:
        pids = cluster.pids
        assert sorted(pids) == ["api-1", "api-2", "redis", "worker-1"]
        assert all(lives(pid) for pid in pids.values())
        began_s = time.monotonic()
        assert cluster.stop(signal.SIGINT) == 0
        assert time.monotonic() - began_s < 5.0
        assert gone(pids.values())
        assert not cluster.state["ready"]
    assert "ready in" in cluster.output
    assert cluster.output.endswith("stopping\nstopped\n")


@pytest.mark.parametrize("name", ["api-1", "worker-1", "redis"])
def test_what_dies_is_restarted_and_said(tmp_path: Path, name: str) -> None:
    with stub_cluster(tmp_path) as cluster:
        redis_url = cluster.redis_url
        killed = cluster.kill(name)
        cluster.wait_for(lambda state: cluster.pids[name] not in (killed, None), WAIT_S)
        cluster.wait_ready(WAIT_S)
        assert f"{name:<9} died (SIGKILL), starts again in 0.2 s" in cluster.output
        assert "ready again" in cluster.output
        assert cluster.redis_url == redis_url


def test_without_restarts_the_dead_stay_dead(tmp_path: Path) -> None:
    with stub_cluster(tmp_path, "--no-restart") as cluster:
        cluster.kill("api-1")
        cluster.wait_for(lambda state: cluster.pids["api-1"] is None, WAIT_S)
        assert "starts again" not in cluster.output
        assert not cluster.state["ready"]


def test_a_killed_launcher_leaves_none(tmp_path: Path) -> None:
    with stub_cluster(tmp_path) as cluster:
        pids = cluster.pids
        cluster.stop(signal.SIGKILL)
        assert eventually(lambda: gone(pids.values()))


def test_a_deaf_child_is_killed_in_time(tmp_path: Path) -> None:
    with stub_cluster(tmp_path, STUB_TROUBLE="deaf") as cluster:
        pids = cluster.pids
        began_s = time.monotonic()
        assert cluster.stop() == 0
        assert time.monotonic() - began_s < 2 * REDIS_GRACE_S, "as a busy machine may need"
        assert gone(pids.values())
        assert "api-1     did not end in time and is killed" in cluster.output


def test_a_child_that_keeps_dying_is_quoted_and_ends_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterFailed, match="the launcher ended") as failed,
        stub_cluster(tmp_path, STUB_TROUBLE="dies"),
    ):
        pass
    told = str(failed.value)
    assert told.count("| stub: there is no such model") == 1
    assert "error: worker-1 died 5 times before it was ready; see" in told
    assert "Traceback" not in told


def test_what_redis_held_is_there_after_a_second_start(tmp_path: Path) -> None:
    with stub_cluster(tmp_path) as cluster, Redis.from_url(cluster.redis_url) as redis:
        redis.xadd("log", {"bytes": "kept"}, id="4-0")
    with stub_cluster(tmp_path) as cluster, Redis.from_url(cluster.redis_url) as redis:
        assert redis.xlen("log") == 1


def test_two_clusters_do_not_share_a_folder(tmp_path: Path) -> None:
    with stub_cluster(tmp_path) as cluster:
        other = made(tmp_path)
        other.start()
        with pytest.raises(ClusterFailed, match=r"error: another cluster .*--state-dir"):
            other.wait_ready(WAIT_S)
        assert other.stop() == 1
        assert cluster.state["ready"]


def test_a_busy_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as listener:
        first = free_block("127.0.0.1", 3)
        listener.bind(("127.0.0.1", first + 2))
        listener.listen()
        cluster = made(tmp_path, "--port", str(first))
        with pytest.raises(ClusterFailed, match=rf"error: port {first + 2} \(api-2\) is busy"):
            cluster.__enter__()
    assert cluster.output.count("\n") == 1


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    cluster = made(tmp_path, "--engine", "llama", "--model", f"{tmp_path}/none.gguf")
    with pytest.raises(ClusterFailed, match=r"error: no model none at .*make setup"):
        cluster.__enter__()
    assert cluster.output.count("\n") == 1


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "STATE_BYTES", 1 << 60)
    options = parse(["--port", "0", "--state-dir", str(tmp_path), "--engine", "scripted"], {})
    assert launcher.launch(options) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: the disk is too full: ")
    assert told.count("\n") == 1


def test_a_given_redis_is_used_and_left_running(tmp_path: Path) -> None:
    with stub_cluster(tmp_path / "a") as first:
        with stub_cluster(tmp_path / "b", "--redis-url", first.redis_url) as second:
            assert second.pids["redis"] is None
            assert second.redis_url == first.redis_url
        with Redis.from_url(first.redis_url) as redis:
            assert redis.ping()


def test_the_greeting_has_an_answer_and_its_replay_to_paste(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REPLAY_API_KEYS", raising=False)
    text = launcher.greeting(parse(["--port", "9000", "--model", "m=/m.gguf"], {}))
    assert "curl -N http://127.0.0.1:9000/v1/chat/completions" in text
    assert '"model":"m"' in text
    assert "/v1/stream?conv_id=first&from=0" in text
    assert "Bearer" not in text
    monkeypatch.setenv("REPLAY_API_KEYS", "one,two")
    text = launcher.greeting(parse([], {}))
    assert "Bearer" in text
    assert "one" not in text


def test_a_key_to_ask_the_nodes_with_is_found_where_they_have_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("REPLAY_API_KEYS", raising=False)
    monkeypatch.delenv("REPLAY_API_KEYS_FILE", raising=False)
    assert launcher.some_key() == ""
    file = tmp_path / "keys"
    file.write_text("# ours\n\n two words tenant=a scopes=read\nthree\n")
    monkeypatch.setenv("REPLAY_API_KEYS_FILE", str(file))
    assert launcher.some_key() == "two words"
    monkeypatch.setenv("REPLAY_API_KEYS", "one, two")
    assert launcher.some_key() == "one"


def test_the_lock_outlives_a_killed_launcher_as_long_as_a_child_does(tmp_path: Path) -> None:
    with stub_cluster(tmp_path) as cluster:
        cluster.stop(signal.SIGKILL)
    with stub_cluster(tmp_path) as cluster:
        assert os.path.exists(cluster.state_dir / "redis" / "appendonlydir")
