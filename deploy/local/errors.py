"""What can keep a cluster from starting."""

from __future__ import annotations


class LaunchFailed(Exception):
    """The cluster cannot start; the text is one line and says what to do about it."""
