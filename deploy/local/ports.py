"""Which TCP ports are free. It must not know what they are for, beyond the names it is given."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence

from deploy.local.errors import LaunchFailed

PORT_MAX = 65_535
# Below where Linux takes a client's own ports from (32768), so that a connection made elsewhere in
# the meantime cannot take a port of the block.
BLOCK_FROM, BLOCK_TO = 20_000, 32_000
BLOCK_TRIES = 200


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on that port now; one held with SO_REUSEPORT is not free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # Connections of a server just ended linger in TIME_WAIT; they keep nobody from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def any_free(host: str) -> int:
    """A port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def free_block(host: str, length: int) -> int:
    """The first of `length` consecutive free ports; LaunchFailed when none is found."""
    for _ in range(BLOCK_TRIES):
        first = random.randrange(BLOCK_FROM, BLOCK_TO - length)
        if all(is_free(host, port) for port in range(first, first + length)):
            return first
    raise LaunchFailed(f"found no {length} free ports in a row between {BLOCK_FROM} and {BLOCK_TO}")


def check_free(host: str, wanted: Mapping[int, str]) -> None:
    """Raises LaunchFailed naming the first of the wanted ports that is busy or impossible.

    `wanted` maps each port to what needs it.
    """
    for port, what in wanted.items():
        if not 0 < port <= PORT_MAX:
            raise LaunchFailed(f"port {port} for {what} does not exist; choose another --port")
        if not is_free(host, port):
            raise LaunchFailed(
                f"port {port} ({what}) is busy on {host}: stop what listens there, "
                f"or start this cluster elsewhere, as with --port {port + 1000}"
            )


def wanted_ports(first: int, names: Sequence[str]) -> dict[int, str]:
    """The front's port, then one for each node, by what needs it."""
    return {first: "the front"} | {first + 1 + i: name for i, name in enumerate(names)}
