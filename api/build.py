"""Which build this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def build_info() -> str:
    """The installed version, as in ``replay-cluster 0.1.0``."""
    try:
        return f"replay-cluster {version('replay-cluster')}"
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "replay-cluster (not installed)"
