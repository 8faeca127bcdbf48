"""The contract of the session log: every adapter passes all of it.

A test file subclasses ``LogContract`` and gives a ``harness`` fixture.
"""

from __future__ import annotations

from archive_contract import ArchiveContract
from doubt_contract import DoubtContract
from forgetting_contract import ForgettingContract
from intent_contract import IntentContract
from lease_contract import LeaseContract
from session_contract import SessionContract
from thought_contract import ThoughtContract


class LogContract(
    SessionContract,
    IntentContract,
    LeaseContract,
    ArchiveContract,
    ForgettingContract,
    DoubtContract,
    ThoughtContract,
):
    """What every session log keeps."""
