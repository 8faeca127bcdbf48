"""The largest answers and the smallest."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.protocol.stored import stored
from tests.protocol.wire import DONE, events, text_of

from .breakable import Breakable, answer_to

MIB = 1 << 20
ANSWER_BYTES = 8 * MIB
BIG = f"[[tokens={ANSWER_BYTES // 4096 + 1} rate=0 burst_every=1 seed=1]]"
READERS = 8
NODE_GROWTH_BYTES_MAX = 24 * MIB
"""Far less than the readers' answers together."""


def peak_bytes(pid: int | None) -> int:
    """The most memory that a process has ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.guarantee("T29")
@pytest.mark.clause("POST-8")
def test_an_answer_of_8_mib_is_exact_for_all_and_held_by_nobody(
    cluster: Breakable, exchanges: ExitStack, name: str
) -> None:
    node, other = cluster.nodes
    pid = cluster.cluster.pids["api-2"]
    before = peak_bytes(pid)
    post = exchanges.enter_context(node.posting(name, BIG))
    post.first(1)
    readers = [exchanges.enter_context(other.reading(name)) for _ in range(READERS)]
    log = post.whole()
    assert len(log) > ANSWER_BYTES and text_of(events(log)) == answer_to(BIG)
    for reader in readers:
        assert reader.whole() == log
    for offset in (1, len(log) // 2, len(log) - 1, len(log)):
        assert other.read(name, from_=offset).content == log[offset:]
    assert peak_bytes(pid) - before < NODE_GROWTH_BYTES_MAX


@pytest.mark.guarantee("T29")
@pytest.mark.clause("POST-8")
@pytest.mark.parametrize("nothing", ["[[tokens=1 rate=0]]", "max_tokens"])
def test_an_answer_of_nothing_is_an_answer(cluster: Breakable, name: str, nothing: str) -> None:
    node, other = cluster.nodes
    more = {"max_tokens": 0} if nothing == "max_tokens" else {}
    log = node.post(name, nothing, stream=True, **more).content
    assert text_of(events(log)) == "" and log.endswith(DONE)
    assert len(events(log)) >= 2
    for one in cluster.nodes:
        assert one.read(name).content == log
        assert one.read(name, from_=len(log)).content == b""
    assert other.found(name)["state"] == "completed"
    assert stored(cluster.db, name).fields["token_count"] == ("0" if more else "1")
