"""What one node consists of, and how routes reach it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from api.admission import Admission
from api.catalog import Catalog
from api.config import ApiSettings
from api.connection import Connections
from api.dispatch import JobQueue
from api.inbox import Preparer
from api.problems import Unavailable
from replay.adapter_scales import AdapterScales
from replay.log import Feed, Leases, SessionLog
from replay.recovery import Recovery
from replay.tailer import Tailer


class NodeLog(SessionLog, Leases, Feed, Protocol):
    """The session log as a node uses it."""

    async def ping(self) -> None:
        """Returns where the log plane answers. Raises LogUnavailable."""
        ...


class Errands:
    """What a request leaves to be done after it has ended. The node awaits it when it ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Starts an errand, which must see to its own errors."""
        task = asyncio.create_task(errand, name="errand")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, limit_s: float) -> None:
        """Waits for all errands, and ends what takes longer."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=limit_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


@dataclass(slots=True)
class Presence:
    """Whether the node is leaving. Written by the server alone.

    ``closed``: it begins no answer any more that it would have to cut. ``refusal`` is why it must
    not serve; written by the check of Redis alone.
    """

    draining: bool = False
    closed: bool = False
    refusal: str = ""

    def check_open(self) -> None:
        """Raises Unavailable where the client had better go to another node."""
        if self.closed:
            raise Unavailable("the node is draining", "draining")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The parts of one node. ``id`` is new with each start; the settings' name is for people."""

    id: str
    settings: ApiSettings
    log: NodeLog
    tailer: Tailer
    catalog: Catalog
    preparer: Preparer
    queue: JobQueue
    connections: Connections
    recovery: Recovery
    admission: Admission
    scales: AdapterScales
    presence: Presence = field(default_factory=Presence)
    errands: Errands = field(default_factory=Errands)


async def node_of(request: Request) -> Node:
    """The node that serves this request."""
    node: Node = request.app.state.node
    return node


NodeDep = Annotated[Node, Depends(node_of)]
