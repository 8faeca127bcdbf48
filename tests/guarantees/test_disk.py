"""Redis cannot write its append-only file: it refuses every write, and readers wait with it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.protocol.stored import stored
from tests.protocol.wire import error_of, events, text_of, until
from tests.redis_server import RedisServer

from .breakable import LEASE_S, Breakable, answer_to

DISK_BYTES = 8 << 20
ASKED = "[[tokens=240 rate=30 seed=4]]"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}"]
    subprocess.run(["mount", *options, "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def cluster(disk: Path, tmp_path: Path) -> Iterator[Breakable]:
    """A cluster whose Redis writes there."""
    with Breakable(tmp_path, redis=RedisServer(disk)).running() as cluster:
        yield cluster


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """A block in which it has no room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        filler.unlink()


@pytest.mark.guarantee("T33")
@pytest.mark.clause("HEALTH-1")
def test_a_full_disk_costs_a_pause_and_no_byte(
    cluster: Breakable, exchanges: ExitStack, disk: Path, name: str
) -> None:
    node, other = cluster.nodes
    kept = node.post(f"{name}-kept", ASKED.replace("rate=30", "rate=0"), stream=True).content
    post = exchanges.enter_context(node.posting(name, ASKED))
    post.first(1)
    reader = exchanges.enter_context(other.reading(name))
    with full(disk):
        for one in cluster.nodes:
            until(lambda one=one: one.http.get("/ready").status_code == 503)
            refused = one.post(f"{name}-kept", "never")
            assert refused.status_code == 503 and error_of(refused)["reason"] == "redis"
            assert refused.headers["retry-after"]
            assert one.stop(name).status_code == 503
            for offset in (0, 1, len(kept) // 2, len(kept)):
                assert one.read(f"{name}-kept", from_=offset).content == kept[offset:]
        said = stored(cluster.db, name)
        time.sleep(2 * LEASE_S)  # nothing may happen, and nothing tells when it would have
        assert stored(cluster.db, name).log == said.log and said.fields["state"] == "running"
    log = post.whole()
    assert reader.whole() == log
    assert text_of(events(log)) == answer_to(ASKED)
    record = stored(cluster.db, name).fields
    assert (record["attempt"], record["deaths"], record["token_count"]) == ("1", "0", "240")
    cluster.well()
