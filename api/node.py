"""What one node consists of, and how routes reach it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from api.catalog import Catalog
from api.config import ApiSettings
from api.connection import Connections
from api.dispatch import JobQueue
from api.inbox import Preparer
from replay.log import Feed, Leases, SessionLog
from replay.tailer import Tailer


class NodeLog(SessionLog, Leases, Feed, Protocol):
    """The session log as a node uses it."""

    async def ping(self) -> None:
        """Returns where the log plane answers. Raises LogUnavailable."""
        ...


@dataclass(slots=True)
class Presence:
    """Whether the node is leaving. Written by the server's signal handler alone."""

    draining: bool = False


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
    presence: Presence = field(default_factory=Presence)


async def node_of(request: Request) -> Node:
    """The node that serves this request."""
    node: Node = request.app.state.node
    return node


NodeDep = Annotated[Node, Depends(node_of)]
