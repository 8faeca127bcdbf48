"""The table of settings says what the classes say, and is up to date in RUNBOOK.md."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy import settings_table


class NodeSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="REPLAY_")

    redis_url: str = Field("redis://r", description="Where Redis is.")
    drain_s: float = Field(5.0, description="a | b", json_schema_extra={"unit": "s"})
    node: str = Field(default_factory=socket.gethostname, description="Its name.")
    page: Path = Field(settings_table.ROOT / "webui", description="The page.")


class WorkerSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="REPLAY_")

    redis_url: str = Field("redis://r", description="Where Redis is.")
    key: SecretStr = Field(SecretStr(""), description="A key.")
    models: str = Field(description="What to load.")


def test_a_setting_that_two_read_alike_stands_once() -> None:
    table = settings_table.table([("node", NodeSettings), ("worker", WorkerSettings)])
    assert table.splitlines()[2:] == [
        "| `REPLAY_REDIS_URL` | node, worker | `redis://r` |  | Where Redis is. |",
        "| `REPLAY_DRAIN_S` | node | `5.0` | s | a \\| b |",
        "| `REPLAY_NODE` | node | `gethostname()` |  | Its name. |",
        "| `REPLAY_PAGE` | node | `webui` |  | The page. |",
        "| `REPLAY_KEY` | worker |  |  | A key. |",
        "| `REPLAY_MODELS` | worker | required |  | What to load. |",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), ("", ""), (True, "`true`"), (("a", "b"), "`a,b`"), (8, "`8`")]
)
def test_defaults_are_shown_as_they_are_typed(value: Any, text: str) -> None:
    assert settings_table.shown(value) == text


def test_a_setting_without_a_description_is_refused() -> None:
    class Silent(BaseSettings):
        port: int = 1

    with pytest.raises(ValueError, match="port has no description"):
        list(settings_table.settings_of(Silent))


def test_only_what_stands_between_the_markers_changes() -> None:
    page = f"before\n{settings_table.BEGIN}\nold\n{settings_table.END}\nafter\n"
    fresh = settings_table.with_table(page, "new")
    assert fresh == f"before\n{settings_table.BEGIN}\n\nnew\n\n{settings_table.END}\nafter\n"
    assert settings_table.with_table(fresh, "new") == fresh
    with pytest.raises(ValueError, match="markers"):
        settings_table.with_table("a page", "new")


def test_the_runbook_is_up_to_date() -> None:
    assert settings_table.main(["--check"]) == 0, "run: make fmt"
