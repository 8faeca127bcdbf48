"""An outage is told once, and its end once."""

from __future__ import annotations

import logging

import pytest

from replay.outage import Outage


def test_an_outage_is_two_lines_however_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage(logging.getLogger("x"), "the queue")
    outage.is_over()
    for _ in range(3):
        outage.goes_on(OSError("refused"))
    outage.is_over()
    outage.is_over()
    assert caplog.messages == ["the queue: refused, trying again", "the queue: well again"]
    outage.goes_on(OSError("again"))
    assert caplog.messages[2:] == ["the queue: again, trying again"]
