"""A whole cluster stops in time, and what it has said is there after the next start."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from cluster_client import client_of, end_of
from conftest import scripted_cluster

pytestmark = pytest.mark.anyio

STOP_LIMIT_S = 15.0
"""It is promised within five; the rest is for a machine that is busy with other tests."""


def lives(pid: int) -> bool:
    """Whether a process is there; one that only waits to be reaped is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_stop_leaves_nothing_and_a_second_start_replays(tmp_path: Path, name: str) -> None:
    with scripted_cluster(tmp_path) as cluster:
        pids = [pid for pid in cluster.pids.values() if pid]
        async with client_of(cluster) as client:
            log = (await client.post(name, "[[tokens=40 rate=0]]", stream=True)).content
            [found] = await client.lookup(name)
            async with client.posting(f"{name}-live", "[[tokens=100000 rate=50]]") as post:
                await post.has(5000)
                began_s = time.monotonic()
                # It waits for its children, who wait for their readers: none may hold it up.
                assert cluster.stop(signal.SIGTERM) == 0
                assert time.monotonic() - began_s < STOP_LIMIT_S
                got = await post.cut()
        assert len(pids) == 4
        assert not any(lives(pid) for pid in pids)
    with scripted_cluster(tmp_path) as cluster:
        async with client_of(cluster) as client:
            for node in range(2):
                assert await client.lookup(name, node=node) == [found]
                for offset in (0, 1, len(log) // 2, len(log)):
                    rest = await client.read(name, node=node, from_=offset)
                    assert (rest.status_code, rest.content) == (200, log[offset:])
            async with client.reading(f"{name}-live", node=1) as reader:
                grown = await reader.has(len(got) + 5000)  # the next worker goes on with it
                assert grown.startswith(got)
                await client.stop(f"{name}-live", keep="true")
                assert end_of(await reader.whole())["reason"] == "client"
            again = await client.post(name, "[[tokens=3 rate=0]]", stream=True)
            assert int(again.headers["x-stream-epoch"]) > found["epoch"]
