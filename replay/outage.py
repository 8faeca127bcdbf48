"""One line in the log when something goes away, and one when it is back."""

from __future__ import annotations

import logging


class Outage:
    """Whether one thing is away. Owned by the loop that asks for it."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._is_on = False

    def goes_on(self, error: Exception) -> None:
        """It could not be reached, again perhaps."""
        if not self._is_on:
            self._logger.warning("%s: %s, trying again", self._what, error)
        self._is_on = True

    def is_over(self) -> None:
        """It answers."""
        if self._is_on:
            self._logger.info("%s: well again", self._what)
        self._is_on = False
