"""The shared cluster of these tests, and what makes others of their own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .breakable import Breakable

FOLDER = Path(__file__).parent
PATIENT = dict.fromkeys(("REPLAY_SEND_TIMEOUT_S", "REPLAY_TCP_USER_TIMEOUT_S"), "60")
"""With readers that a test reads one after the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts processes, save the check of the table."""
    for item in items:
        if item.path.is_relative_to(FOLDER) and item.path.name != "test_table.py":
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="package")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """Two nodes and two workers of four slots each, leases of two seconds."""
    folder = tmp_path_factory.mktemp("breakable")
    with Breakable(folder, **PATIENT).running() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Breakable) -> Iterator[Breakable]:
    """The same, well again after the last test, and with nothing left running by this one."""
    yield shared_cluster.well()
    shared_cluster.well().settle()


@pytest.fixture
def cluster_of(tmp_path: Path) -> Iterator[Callable[..., Breakable]]:
    """Starts clusters of this test alone: ``cluster_of(nodes=3, redis=RedisServer(...))``."""
    with ExitStack() as stack:

        def start(**options: Any) -> Breakable:
            folder = tmp_path / secrets.token_hex(4)
            return stack.enter_context(Breakable(folder, **options).running())

        yield start


@pytest.fixture
def exchanges() -> Iterator[ExitStack]:
    """Hangs up what was entered here."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def name() -> str:
    """A conversation that no other test uses."""
    return f"c-{secrets.token_hex(6)}"
