"""The cluster that the vendors' SDKs speak to."""

from __future__ import annotations

KEY = "sdk-key"
SETTINGS = {"REPLAY_API_KEYS": KEY, "REPLAY_REDIS_URL": "", "REPLAY_MODELS": ""}
