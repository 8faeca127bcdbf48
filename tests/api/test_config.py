"""Settings come from the environment, are documented, and do not change."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from api.config import ApiSettings


def test_every_setting_is_documented_and_numbers_have_units() -> None:
    for name, field in ApiSettings.model_fields.items():
        assert field.description, name
        if name.endswith(("_s", "_bytes", "_max")):
            assert field.json_schema_extra, name


def test_the_environment_is_read_and_empty_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLAY_REDIS_URL", "redis://elsewhere:1")
    monkeypatch.setenv("REPLAY_QUEUE_REDIS_URL", "")
    monkeypatch.setenv("REPLAY_API_KEYS", " a, b,,")
    settings = ApiSettings()
    assert settings.queue_url == "redis://elsewhere:1"
    assert settings.keys == ("a", "b")
    assert "a, b" not in repr(settings)


def test_a_setting_does_not_change() -> None:
    with pytest.raises(ValidationError):
        ApiSettings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("setting", ["REPLAY_PORT", "REPLAY_DRAIN_S", "REPLAY_BODY_BYTES_MAX"])
def test_nonsense_is_refused(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(setting, "-1")
    with pytest.raises(ValidationError):
        ApiSettings()
