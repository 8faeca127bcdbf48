"""What is wrong with a value, said without repeating what may be secret."""

from __future__ import annotations

import pytest
import typer

from replay.cli import options

from .command_line import replayctl


@pytest.mark.parametrize("url", ["redis://h:6379/0", "rediss://u:p@h", "unix:///run/redis.sock"])
def test_a_redis_url_is_taken_as_it_is(url: str) -> None:
    assert options.redis_url(url) == url


@pytest.mark.parametrize("url", ["hunter2", "http://u:hunter2@h", "redis://u:hunter2@h:port"])
def test_no_redis_url_is_wrong_usage_and_not_repeated(url: str) -> None:
    result = replayctl(url, "sessions", "ls")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "hunter2" not in result.stderr


def test_an_absent_queue_plane_is_no_error() -> None:
    assert options.optional_redis_url("") == ""


@pytest.mark.parametrize("text", ["", "caf\udce9"])
def test_an_id_that_no_client_can_have_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.name(text)


def test_an_empty_variable_counts_as_absent() -> None:
    result = replayctl("", "sessions", "ls", "--limit", "0")
    assert "--limit" in result.stderr
    assert "--redis-url" not in result.stderr
