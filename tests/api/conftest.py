"""A node in memory for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from node_harness import NodeHarness, memory_node, served_node


@pytest.fixture
async def node() -> AsyncIterator[NodeHarness]:
    """A node without a socket."""
    async with memory_node() as harness:
        yield harness


@pytest.fixture
async def served() -> AsyncIterator[NodeHarness]:
    """A node behind a socket of its own."""
    async with served_node() as harness:
        yield harness
