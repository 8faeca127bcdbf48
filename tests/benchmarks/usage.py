"""What a process has used, as Linux counts it in /proc."""

from __future__ import annotations

import os
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
UTIME, STIME = 11, 12
"""Fields of /proc/<pid>/stat, counted after the name, which may hold spaces."""


def cpu_s(pid: int) -> float:
    """User and system seconds of all threads; steps of 10 ms."""
    return sum(_times_s(pid))


def user_s(pid: int) -> float:
    """The user part of it: what the process itself computed."""
    return _times_s(pid)[0]


def _times_s(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[UTIME]) / TICKS_PER_S, int(fields[STIME]) / TICKS_PER_S


def memory_bytes(pid: int) -> int:
    """The proportional set size: private pages, and a share of the shared ones."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no Pss")


def connections_to(pid: int, port: int) -> int:
    """How many TCP connections the process has to this port."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    peers = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    wanted = f":{port:04X}"
    return sum(fields[2].endswith(wanted) and fields[9] in inodes for fields in peers)
